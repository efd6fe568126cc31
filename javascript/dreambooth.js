// What Gradio can't do: look at the server as often as it is worth it, tell in the browser's title how far a run is,
// open the field that a problem's link names, and more.
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

    // The look at the server. At each answer Gradio goes through the whole page, with a WebUI's other tabs in it (4.x
    // draws all of it anew): nobody is asked often while nothing goes on, or while the tab isn't in sight.
    const SELDOM = 5, AWAY = 15, LATELY = 20; // seconds
    const often = () => (window.gradio_config?.version?.startsWith("4.") ? 3 : 1);
    let looked = 0, touched = Date.now(), known = null;

    setInterval(() => {
        const button = root().querySelector("#db_tick");
        const inSight = !document.hidden && root().querySelector("#db_page")?.offsetParent;
        const moves = root().querySelector("#db_page .db_moving") || Date.now() - touched < LATELY * 1000;
        const wait = inSight ? (moves ? often() : SELDOM) : AWAY;
        if (!button || Date.now() - looked < wait * 1000 - 50) return;
        looked = Date.now();
        if (button === known) button.click();
        else { // the page has just come up and fills itself
            known = button;
            fitAll();
        }
    }, 1000);

    // Gradio 3 fits a field to its text when it is filled: in a tab that isn't in sight, where nothing has a size, to one
    // line, so that longer paths and prompts are cut. They are fitted when they come into sight or become narrower.
    const MOST_HEIGHT = 270; // pixels, 12 lines
    const widths = new WeakMap();
    const fitted = new ResizeObserver((changes) => {
        for (const { target } of changes) {
            const lacks = target.scrollHeight - target.clientHeight;
            if (target.clientWidth && target.clientWidth !== widths.get(target) && lacks > 0) {
                target.style.height = `${Math.min(target.offsetHeight + lacks, MOST_HEIGHT)}px`;
            }
            widths.set(target, target.clientWidth);
        }
    });

    function fitAll() {
        if (!window.gradio_config?.version?.startsWith("3.")) return;
        for (const field of root().querySelectorAll("#db_page textarea")) fitted.observe(field);
    }

    document.addEventListener("click", (event) => {
        const within = (id) => event.composedPath().some((part) => part.id === id);
        if (event.isTrusted && within("db_page")) touched = Date.now();
        if (event.isTrusted && within("db_top")) looked = 0; // what a run was asked for shows at once
    });

    const TABS = {
        settings: "Settings", concepts: "Concepts", pictures: "Pictures", saving: "Saving", tools: "Tools", select: "Select", create: "Create",
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
        for (const field of root().querySelectorAll("#db_page [id^=db_]")) {
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

    // A picture of the look is shown large: its number goes into a field that the server listens to.
    function pick(number) {
        const field = root().querySelector("#db_look_picked textarea, #db_look_picked input");
        if (!field) return;
        field.value = number;
        field.dispatchEvent(new Event("input", { bubbles: true }));
    }

    const pickedNow = () => root().querySelector("#db_look_large .db_large") &&
        root().querySelector("#db_look_picked textarea, #db_look_picked input").value;

    document.addEventListener("click", (event) => {
        const path = event.composedPath().filter((part) => part.classList);
        const picture = path.find((part) => part.classList.contains("db_picture"));
        if (picture) pick(picture.dataset.number);
        const inside = path.some((part) => part.classList.contains("db_large_inner"));
        const close = path.some((part) => part.classList.contains("db_close"));
        if (close || (!inside && path.some((part) => part.classList.contains("db_large")))) pick("");
    });

    // Before the WebUI hears of it: to its script Escape means to interrupt what is drawn, and in a tab where nothing is
    // drawn, an error.
    document.addEventListener("keydown", (event) => {
        const target = event.composedPath()[0];
        if (event.key === "Enter" && target.matches?.(".db_picture")) pick(target.dataset.number);
        const picked = pickedNow();
        if (!picked) return;
        const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        const numbers = [...root().querySelectorAll("#db_look_gallery .db_picture")].map((one) => one.dataset.number);
        if (event.key === "Escape") pick("");
        else if (step) pick(numbers[numbers.indexOf(picked) + step] ?? picked);
        else return;
        event.stopPropagation();
    }, { capture: true });

    // A click on a tag or a picture of the captions goes into a field that the server listens to; when it was makes
    // two clicks on the same thing differ.
    document.addEventListener("click", (event) => {
        const picked = event.composedPath().find((part) => part.dataset?.dbPick);
        const field = root().querySelector("#db_captions_picked textarea, #db_captions_picked input");
        if (!picked || !field) return;
        field.value = `${Date.now()} ${picked.dataset.dbPick} ${picked.dataset.dbValue}`;
        field.dispatchEvent(new Event("input", { bubbles: true }));
        if (picked.dataset.dbPick === "open") showOpened();
    });

    // The caption that was opened stands below all the pictures.
    async function showOpened() {
        const opened = () => root().querySelector("#db_captions_opened")?.innerText;
        const before = opened();
        for (let waited = 0; waited < 50 && opened() === before; waited++) await pause(100);
        await pause(100);
        root().querySelector("#db_captions_one")?.scrollIntoView({ block: "nearest" });
    }

    document.addEventListener("click", (event) => {
        const link = event.composedPath().find((part) => part.classList?.contains("db_goto"));
        if (!link) return;
        event.preventDefault();
        reveal(link.getAttribute("href"));
    });
})();
