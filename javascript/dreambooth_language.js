// Replaces the page's texts by those of a catalogue that the server puts into #db_language (ui/language.py), in our tab
// alone. Gradio writes its own texts again whenever it renders a part, so all changes are watched.
(() => {
    const ATTRIBUTES = ["placeholder", "title", "aria-label"];
    // What users typed or named, and the choices of lists, whose texts are values.
    const SKIPPED = "script, style, textarea, input, code, pre, [translate=no], [role=option], ul.options, #db_gallery .caption-label, #db_language, " +
        "[data-db-pick=tag], .db_captioned_one > b, .db_changes p";
    const CACHED = 5000; // texts
    const LONGEST = 2000; // characters; longer texts are what users wrote, or logs
    const root = () => document.querySelector("gradio-app")?.shadowRoot || document;

    // A template as a pattern, and the names of its placeholders: see ui/language.py.
    function compiled([english, translation]) {
        const names = [];
        const pattern = english.split(/(\{\w+\})/).map((part) => {
            if (!/^\{\w+\}$/.test(part)) return part.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
            names.push(part);
            return part === "{n}" || /^\{n\d\}$/.test(part) ? "(\\d[\\d.,:e+-]*)" : "(.+?)";
        });
        return { pattern: new RegExp(`^${pattern.join("")}$`, "s"), names, translation };
    }

    function translator(catalogue) {
        const isTemplate = ([english]) => /\{\w+\}/.test(english);
        const texts = new Map(Object.entries(catalogue));
        const literal = ([english]) => english.replace(/\{\w+\}/g, "").length;
        const templates = Object.entries(catalogue).filter(isTemplate)
            .sort((one, other) => literal(other) - literal(one)).map(compiled); // the most specific one first
        const cache = new Map();

        function fromTemplate(text) {
            for (const { pattern, names, translation } of templates) {
                const match = pattern.exec(text);
                if (!match) continue;
                const values = new Map(names.map((name, index) => [name, match[index + 1]]));
                return translation.replace(/\{\w+\}/g, (name) => {
                    const value = values.get(name) ?? name;
                    return /^\{[tu]\d?\}$/.test(name) ? translate(value) ?? value : value;
                });
            }
        }

        // Lines, lists of facts and sentences that the catalogue has one by one.
        function inParts(text) {
            for (const [separator, joined] of [[/\n/, "\n"], [/ · /, " · "], [/(?<=[.!?]) (?=[A-Z])/, ""], [/, /, "，"]]) {
                const parts = text.split(separator);
                if (parts.length === 1) continue;
                const translated = parts.map((part) => translate(part));
                if (separator.source === ", " ? translated.every(Boolean) : translated.some(Boolean)) {
                    return translated.map((part, index) => part ?? parts[index]).join(joined);
                }
            }
        }

        // What a message is about, such as a file, and the message.
        function afterColon(text) {
            const [subject, ...rest] = text.split(": ");
            const message = rest.length ? translate(rest.join(": ")) : undefined;
            return message && `${translate(subject) ?? subject}：${message}`;
        }

        // The end of a sentence, which the message around it adds.
        function withoutStop(text) {
            const translation = /[^.]\.$/.test(text) ? texts.get(text.slice(0, -1)) ?? fromTemplate(text.slice(0, -1)) : undefined;
            return translation && `${translation}。`;
        }

        function translate(text) {
            const words = text.trim();
            if (words.length > LONGEST || !/[a-z]/i.test(words)) return undefined;
            if (!cache.has(words)) {
                if (cache.size > CACHED) cache.clear();
                cache.set(words, texts.get(words) ?? fromTemplate(words) ?? withoutStop(words) ?? inParts(words) ?? afterColon(words));
            }
            return cache.get(words);
        }
        return translate;
    }

    function apply(translate, node) {
        if (node.nodeType === Node.TEXT_NODE) {
            if (node.parentElement && !node.parentElement.closest(SKIPPED)) applyToText(translate, node);
            return;
        }
        if (node.nodeType !== Node.ELEMENT_NODE) return;
        for (const part of [node, ...node.querySelectorAll("[placeholder], [title], [aria-label]")]) applyToAttributes(translate, part);
        const walker = document.createTreeWalker(node, NodeFilter.SHOW_TEXT);
        for (let text = walker.nextNode(); text; text = walker.nextNode()) {
            if (!text.parentElement.closest(SKIPPED)) applyToText(translate, text);
        }
    }

    function applyToText(translate, node) {
        const translation = translate(node.data);
        if (translation === undefined) return;
        const [, before, after] = /^(\s*)[^]*?(\s*)$/.exec(node.data);
        const text = before + translation + after;
        if (node.data !== text) node.data = text;
    }

    function applyToAttributes(translate, part) {
        if (part.closest("[translate=no]")) return;
        for (const name of ATTRIBUTES) {
            const translation = part.hasAttribute(name) ? translate(part.getAttribute(name)) : undefined;
            if (translation !== undefined && translation !== part.getAttribute(name)) part.setAttribute(name, translation);
        }
    }

    function observe(page, source) {
        const translate = translator(JSON.parse(source.textContent));
        page.lang = source.lang;
        apply(translate, page);
        new MutationObserver((changes) => {
            for (const { type, target, addedNodes } of changes) {
                if (type === "attributes") applyToAttributes(translate, target);
                else if (type === "characterData") apply(translate, target);
                else addedNodes.forEach((node) => apply(translate, node));
            }
        }).observe(page, { subtree: true, childList: true, characterData: true, attributes: true, attributeFilter: ATTRIBUTES });
    }

    let observed = null;
    setInterval(() => {
        const page = root().querySelector("#db_page"), source = root().querySelector("#db_language pre");
        if (!page || !source || page === observed) return;
        observed = page;
        observe(page, source);
    }, 200);
})();
