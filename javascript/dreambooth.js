// What Gradio can't do: poll the server at a suitable rate, show progress in the browser's title, open the field that
// an error links to, and more.
(() => {
    const PROGRESS = /^\[Dreambooth [^\]]*\] /;
    const root = () => document.querySelector("gradio-app")?.shadowRoot || document;

    setInterval(() => {
        const bar = root().querySelector("#db_progress .db_moving progress");
        const percent = bar?.hasAttribute("value") ? `${Math.round(bar.value * 100)}%` : "…";
        const plain = document.title.replace(PROGRESS, "");
        const title = bar ? `[Dreambooth ${percent}] ${plain}` : plain;
        if (document.title !== title) document.title = title;
    }, 1000);

    // Polling. At each response Gradio goes through the whole page, including a WebUI's other tabs (4.x renders all of it
    // again). So we poll less often while no job is running, and seldom while the tab isn't visible.
    const IDLE = 5, HIDDEN = 15, RECENT = 20; // seconds
    const active = () => (window.gradio_config?.version?.startsWith("4.") ? 3 : 1);
    let lastPoll = 0, lastClick = Date.now(), knownButton = null;

    setInterval(() => {
        const button = root().querySelector("#db_tick");
        const visible = !document.hidden && root().querySelector("#db_page")?.offsetParent;
        const running = root().querySelector("#db_page .db_moving") || Date.now() - lastClick < RECENT * 1000;
        const wait = visible ? (running ? active() : IDLE) : HIDDEN;
        if (!button || Date.now() - lastPoll < wait * 1000 - 50) return;
        lastPoll = Date.now();
        if (button === knownButton) button.click();
        else { // the page has just been loaded, and its load events fill it
            knownButton = button;
            observeTextAreas();
        }
    }, 1000);

    // Gradio 3 sets the height of a text area when it gets its text. In a hidden tab, where nothing has a size, this is
    // one line, so that longer paths and prompts are cut. We correct it when it becomes visible or narrower.
    const MAX_HEIGHT = 270; // pixels, 12 lines
    const widths = new WeakMap();
    const resizeObserver = new ResizeObserver((entries) => {
        for (const { target } of entries) {
            const missing = target.scrollHeight - target.clientHeight;
            if (target.clientWidth && target.clientWidth !== widths.get(target) && missing > 0) {
                target.style.height = `${Math.min(target.offsetHeight + missing, MAX_HEIGHT)}px`;
            }
            widths.set(target, target.clientWidth);
        }
    });

    function observeTextAreas() {
        if (!window.gradio_config?.version?.startsWith("3.")) return;
        for (const field of root().querySelectorAll("#db_page textarea")) resizeObserver.observe(field);
    }

    document.addEventListener("click", (event) => {
        const within = (id) => event.composedPath().some((part) => part.id === id);
        if (event.isTrusted && within("db_page")) lastClick = Date.now();
        if (event.isTrusted && within("db_top")) lastPoll = 0; // show the effect of the top row's buttons at once
    });

    // Labels of the tabs by elem_id without its prefix; Gradio 3 gives their buttons no id.
    const TABS = {
        settings: "Settings", concepts: "Concepts", pictures: "Images", saving: "Saving", tools: "Tools", select: "Select", create: "Create",
    };

    function openTab(name) {
        const buttons = () => [...root().querySelectorAll("#db_page .tab-nav button")];
        const button = root().querySelector(`#db_tab_${name}-button`) ||
            buttons().find((candidate) => candidate.innerText.trim() === TABS[name]);
        button?.click();
    }

    const sleep = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

    // Disabled controls are out of the keyboard's reach too. render.disabled lists them in data-ids.
    setInterval(() => {
        const lists = [...root().querySelectorAll("#db_page [data-ids]")];
        const disabled = new Set(lists.flatMap((list) => list.dataset.ids.split(" ")));
        for (const field of root().querySelectorAll("#db_page [id^=db_]")) {
            if (field.inert === disabled.has(field.id)) continue;
            field.inert = disabled.has(field.id);
            if (field.inert) field.setAttribute("aria-disabled", "true");
            else field.removeAttribute("aria-disabled");
        }
    }, 300);

    // Show a field, which may be in a hidden tab (newer Gradio renders a tab only when it is opened) or accordion.
    async function reveal(target) {
        const field = () => root().querySelector(target);
        for (const name of Object.keys(TABS)) {
            if (field()?.closest("[id^=db_tab_]")?.offsetParent) break;
            openTab(name);
            await sleep(150);
        }
        for (let part = field()?.parentElement; part; part = part.parentElement) {
            const header = part.querySelector(":scope > .label-wrap");
            if (header && !header.classList.contains("open")) header.click();
        }
        await sleep(150);
        field()?.scrollIntoView({ block: "center" });
        field()?.querySelector("input, textarea")?.focus();
    }

    // Gradio 3 reads a dropdown's text field at keyup, so that text pasted with the mouse would be lost.
    document.addEventListener("input", (event) => {
        const field = event.composedPath()[0];
        if (window.gradio_config?.version?.startsWith("3.") && field.closest?.("#db_page") && field.matches("input")) {
            field.dispatchEvent(new KeyboardEvent("keyup"));
        }
    });

    // Dataset preview: show an image in large, by writing its number into a field whose changes the server handles.
    function pick(number) {
        const field = root().querySelector("#db_look_picked textarea, #db_look_picked input");
        if (!field) return;
        field.value = number;
        field.dispatchEvent(new Event("input", { bubbles: true }));
    }

    const shownNumber = () => root().querySelector("#db_look_large .db_large") &&
        root().querySelector("#db_look_picked textarea, #db_look_picked input").value;

    document.addEventListener("click", (event) => {
        const path = event.composedPath().filter((part) => part.classList);
        const image = path.find((part) => part.classList.contains("db_picture"));
        if (image) pick(image.dataset.number);
        const inside = path.some((part) => part.classList.contains("db_large_inner"));
        const close = path.some((part) => part.classList.contains("db_close"));
        if (close || (!inside && path.some((part) => part.classList.contains("db_large")))) pick("");
    });

    // In the capture phase, before the WebUI's script, for which Escape interrupts a generation, or in a tab without one
    // causes an error.
    document.addEventListener("keydown", (event) => {
        const target = event.composedPath()[0];
        if (event.key === "Enter" && target.matches?.(".db_picture")) pick(target.dataset.number);
        const shown = shownNumber();
        if (!shown) return;
        const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        const images = [...root().querySelectorAll("#db_look_gallery .db_picture")];
        const numbers = images.map((image) => image.dataset.number);
        if (event.key === "Escape") pick("");
        else if (step) pick(numbers[numbers.indexOf(shown) + step] ?? shown);
        else return;
        event.stopPropagation();
    }, { capture: true });

    // Captions: write a click on a tag or image into a field whose changes the server handles. The time makes two
    // clicks on the same thing differ.
    document.addEventListener("click", (event) => {
        const picked = event.composedPath().find((part) => part.dataset?.dbPick);
        const field = root().querySelector("#db_captions_picked textarea, #db_captions_picked input");
        if (!picked || !field) return;
        field.value = `${Date.now()} ${picked.dataset.dbPick} ${picked.dataset.dbValue}`;
        field.dispatchEvent(new Event("input", { bubbles: true }));
        if (picked.dataset.dbPick === "open") scrollToEditor();
    });

    // The editor of the opened caption is below all images.
    async function scrollToEditor() {
        const opened = () => root().querySelector("#db_captions_opened")?.innerText;
        const before = opened();
        for (let waited = 0; waited < 50 && opened() === before; waited++) await sleep(100);
        await sleep(100);
        root().querySelector("#db_captions_one")?.scrollIntoView({ block: "nearest" });
    }

    document.addEventListener("click", (event) => {
        const link = event.composedPath().find((part) => part.classList?.contains("db_goto"));
        if (!link) return;
        event.preventDefault();
        reveal(link.getAttribute("href"));
    });
})();
