// What Gradio can't do: the browser's title tells how far a run is, and a problem's link opens its field.
(() => {
    const MARK = /^\[Dreambooth [^\]]*\] /;
    const root = () => document.querySelector("gradio-app")?.shadowRoot || document;

    setInterval(() => {
        const bar = root().querySelector("#db_progress .db_moving progress");
        const share = bar?.hasAttribute("value") ? `${Math.round(bar.value * 100)}%` : "…";
        const plain = document.title.replace(MARK, "");
        const title = bar ? `[Dreambooth ${share}] ${plain}` : plain;
        if (document.title !== title) document.title = title;
    }, 1000);

    const TABS = {
        settings: "Settings", concepts: "Concepts", saving: "Saving", tools: "Tools", select: "Select", create: "Create",
    };

    function openTab(name) {
        const plain = () => [...root().querySelectorAll("#db_page .tab-nav button")];
        const button = root().querySelector(`#db_tab_${name}-button`) ||
            plain().find((candidate) => candidate.innerText.trim() === TABS[name]);
        button?.click();
    }

    const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

    // What is greyed out is out of the keyboard's reach too.
    setInterval(() => {
        const lists = [...root().querySelectorAll("#db_page [data-ids]")];
        const off = new Set(lists.flatMap((list) => list.dataset.ids.split(" ")));
        for (const field of root().querySelectorAll("#db_model_column [id^=db_], #db_input_column [id^=db_]")) {
            if (field.inert === off.has(field.id)) continue;
            field.inert = off.has(field.id);
            if (field.inert) field.setAttribute("aria-disabled", "true");
            else field.removeAttribute("aria-disabled");
        }
    }, 300);

    // A field may lie in a tab that isn't shown (newer Gradio draws it only then), or in a folded group.
    async function reveal(target) {
        const field = () => root().querySelector(target);
        for (const name of Object.keys(TABS)) {
            if (field()?.closest("[id^=db_tab_]")?.offsetParent) break;
            openTab(name);
            await pause(150);
        }
        for (let part = field()?.parentElement; part; part = part.parentElement) {
            const fold = part.querySelector(":scope > .label-wrap");
            if (fold && !fold.classList.contains("open")) fold.click();
        }
        await pause(150);
        field()?.scrollIntoView({ block: "center" });
        field()?.querySelector("input, textarea")?.focus();
    }

    // Gradio 3 takes what stands in the field of a list when a key is let go; what the mouse pastes would be lost.
    document.addEventListener("input", (event) => {
        const field = event.composedPath()[0];
        if (window.gradio_config?.version?.startsWith("3.") && field.closest?.("#db_page") && field.matches("input")) {
            field.dispatchEvent(new KeyboardEvent("keyup"));
        }
    });

    document.addEventListener("click", (event) => {
        const link = event.composedPath().find((part) => part.classList?.contains("db_goto"));
        if (!link) return;
        event.preventDefault();
        reveal(link.getAttribute("href"));
    });
})();
