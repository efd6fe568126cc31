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
        if (!button || isOffline() || Date.now() - lastPoll < wait * 1000 - 50) return;
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

    // Is the server there? Gradio's own requests hang or fail without a word, so we ask with one of our own, while the
    // page is visible. Each answer counts, except that of a proxy whose server is gone.
    const PING = 2, PATIENCE = 7; // seconds
    let lastAnswer = Date.now(), lastPing = 0, lastTick = Date.now(), serverId = null, restarted = false;
    const isOffline = () => Date.now() - lastAnswer > PATIENCE * 1000;

    async function ping() {
        lastPing = Date.now();
        const prefix = window.gradio_config?.api_prefix || ""; // since Gradio 5
        const url = location.pathname.replace(/[^/]*$/, "") + prefix.replace(/^\//, "") + (prefix ? "/" : "") + "app_id";
        try {
            const response = await fetch(url, { cache: "no-store", signal: AbortSignal.timeout(PATIENCE * 1000) });
            if ([502, 503, 504].includes(response.status)) return;
            lastAnswer = Date.now();
            const id = response.ok ? (await response.json()).app_id : null; // differs after each start of the server
            if (id && serverId && id !== serverId) restarted = true;
            serverId = serverId || id;
        } catch { /* no answer, or one that is no JSON */ }
    }

    setInterval(() => {
        const now = Date.now(), late = now - lastTick > 3000; // the computer slept, or the browser delayed this page
        const visible = !document.hidden && root().querySelector("#db_page")?.offsetParent;
        lastTick = now;
        if (!visible || late) lastAnswer = now;
        else if (now - lastPing > PING * 1000) ping();
        showConnection();
    }, 1000);

    function showConnection() {
        const bar = root().querySelector("#db_bar");
        if (!bar) return;
        let notice = bar.querySelector("#db_connection");
        if (!notice) {
            notice = Object.assign(document.createElement("div"), { id: "db_connection" });
            notice.setAttribute("role", "alert");
            bar.prepend(notice);
        }
        const time = new Date(lastAnswer).toLocaleTimeString();
        const text = isOffline()
            ? `The WebUI does not answer (last answer: ${time}). Check its console. This page continues when it answers again.`
            : restarted ? "The WebUI was restarted. Reload this page; changes that were not saved are lost." : "";
        if (notice.textContent !== text) notice.textContent = text;
        // The output column is as high as the window, except for the bar and what the host shows below the page.
        bar.parentElement.style.setProperty("--db-bar", `${bar.offsetHeight}px`);
        const columns = root().querySelector("#db_columns");
        if (!columns?.offsetParent) return;
        const footer = document.documentElement.scrollHeight - scrollY - columns.getBoundingClientRect().bottom;
        bar.parentElement.style.setProperty("--db-footer", `${Math.max(0, Math.ceil(footer))}px`);
    }

    document.addEventListener("click", (event) => {
        const within = (id) => event.composedPath().some((part) => part.id === id);
        if (event.isTrusted && within("db_page")) lastClick = Date.now();
        if (event.isTrusted && within("db_top")) lastPoll = 0; // show the effect of the top row's buttons at once
    });

    // Gradio 3 gives the tabs' buttons no id, and their labels depend on the WebUI's language; their order is that of the tabs.
    function tabButton(name) {
        const tab = root().querySelector(`#db_tab_${name}:not(button)`);
        const tabs = tab?.parentElement;
        const number = tabs && [...tabs.querySelectorAll(":scope > .tabitem")].indexOf(tab);
        return tabs?.querySelectorAll(":scope > .tab-nav > button")[number];
    }

    function openTab(name) {
        (root().querySelector(`#db_tab_${name}-button`) || tabButton(name))?.click();
    }

    const sleep = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

    // Disabled controls are out of the keyboard's reach too, and say why. render.disabled lists them in data-ids,
    // render.reasons has the reasons. What is inert can be neither read out nor selected, so the reason is outside of it.
    const REVEALED = "Without effect with the other settings, or locked by a running job.";

    setInterval(() => {
        const lists = [...root().querySelectorAll("#db_page [data-ids]")];
        const disabled = new Set(lists.flatMap((list) => list.dataset.ids.split(" ")));
        const texts = [...root().querySelectorAll("#db_page [data-reason-for]")];
        const reasons = new Map(texts.map((text) => [text.dataset.reasonFor, text.textContent]));
        for (const field of root().querySelectorAll("#db_page [id^=db_]")) {
            const isDisabled = disabled.has(field.id);
            if (!isDisabled && !field.hasAttribute("aria-disabled")) continue;
            const revealed = field.classList.contains("db_revealed") ? REVEALED : "";
            setDisabled(field, isDisabled, isDisabled ? reasons.get(field.id) || revealed : "");
        }
    }, 300);

    function setDisabled(field, disabled, text) {
        const isButton = field.matches("button");
        for (const part of isButton ? [field] : field.children) {
            if (!part.matches(".db_reason") && part.inert !== disabled) part.inert = disabled;
        }
        const id = `${field.id}_reason`;
        let reason = root().querySelector(`#${id}`);
        if (text && !reason) {
            reason = Object.assign(document.createElement("div"), { id, className: "db_reason" });
            if (isButton) field.after(reason);
            else field.append(reason);
        }
        if (!text) reason?.remove();
        else if (reason.textContent !== text) reason.textContent = text;
        const label = field.querySelector("[data-testid=block-info], label > span")?.textContent.trim();
        setAttributes(field, {
            "aria-disabled": disabled ? "true" : null,
            "aria-describedby": text ? id : null,
            ...(isButton ? {} : { role: disabled ? "group" : null, "aria-label": disabled ? label : null }),
        });
    }

    function setAttributes(part, attributes) {
        for (const [name, value] of Object.entries(attributes)) {
            if (value == null) part.removeAttribute(name);
            else if (part.getAttribute(name) !== value) part.setAttribute(name, value);
        }
    }

    // Show a field, which may be in a hidden tab and in closed accordions. Gradio 6 renders neither before they are
    // opened, so a link names its tab and the outermost accordion.
    async function reveal(target, tab, accordion) {
        const field = () => root().querySelector(target);
        const closed = (part) => part && [...part.querySelectorAll(".label-wrap:not(.open)")];
        const found = async (find, seconds) => {
            for (let waited = 0; waited < seconds && !find(); waited += 0.05) await sleep(50);
            return find();
        };
        if (!root().querySelector(`#db_tab_${tab}:not(button)`)?.offsetParent) openTab(tab);
        if (accordion) {
            const outer = await found(() => root().querySelector(`#${accordion}`), 5);
            const isOwn = (header) => [header.parentElement, header.parentElement.parentElement].includes(outer);
            closed(outer)?.find(isOwn)?.click();
            await found(field, 1);
            if (!field()) closed(outer)?.forEach((header) => header.click()); // it is in one of the inner accordions
        }
        await found(field, 5);
        for (let part = field()?.parentElement; part; part = part.parentElement) {
            part.querySelector(":scope > .label-wrap:not(.open)")?.click();
        }
        for (const settled of [200, 400]) { // what was opened is rendered bit by bit
            await sleep(settled);
            const tall = field()?.offsetHeight > innerHeight / 2;
            field()?.scrollIntoView({ block: tall ? "start" : "center" });
        }
        field()?.querySelector("input, textarea")?.focus({ preventScroll: true });
        field()?.classList.add("db_revealed");
        await sleep(5000);
        field()?.classList.remove("db_revealed");
    }

    // Gradio 3 reads a dropdown's text field at keyup, so that text pasted with the mouse would be lost.
    document.addEventListener("input", (event) => {
        const field = event.composedPath()[0];
        if (window.gradio_config?.version?.startsWith("3.") && field.closest?.("#db_page") && field.matches("input")) {
            field.dispatchEvent(new KeyboardEvent("keyup"));
        }
    });

    // An error is about the value that a field had: hide it when that field is edited. Each answer of the server differs
    // (render.refusal), so that a new error is shown.
    const isChoice = (part) => part.matches?.("[role=option], ul.options li");
    for (const kind of ["input", "change", "mousedown", "keydown"]) document.addEventListener(kind, (event) => {
        const chosen = kind === "keydown" ? event.key === "Enter" : kind !== "mousedown" || event.composedPath().some(isChoice);
        if (!event.isTrusted || !chosen) return;
        const ids = new Set(event.composedPath().map((part) => part.id).filter(Boolean));
        for (const problem of root().querySelectorAll("#db_page .db_problem")) {
            const target = problem.querySelector(".db_goto")?.getAttribute("href").slice(1);
            if (ids.has(target)) problem.hidden = true;
        }
    });

    // Gray out the choices in an opened list that can't be used on this machine (Fields.missing).
    document.addEventListener("focusin", async (event) => {
        if (!event.composedPath().some((part) => part.id === "db_page")) return;
        await sleep(100);
        for (const choice of root().querySelectorAll("#db_page [role=option], #db_page ul.options li")) {
            if (/ \u2014 needs /.test(choice.textContent)) choice.classList.add("db_unusable_choice");
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

    // Images: hand pasted images, and the files of a dropped folder, to Gradio's own file input. A folder would break
    // off the upload of the files beside it.
    const uploadArea = () => root().querySelector("#db_upload_files");

    function upload(files) {
        const input = uploadArea()?.querySelector("input[type=file]");
        if (!input || !files.length) return;
        const transfer = new DataTransfer();
        for (const file of files) transfer.items.add(file);
        input.files = transfer.files;
        input.dispatchEvent(new Event("change", { bubbles: true }));
    }

    document.addEventListener("paste", (event) => {
        const images = [...(event.clipboardData?.files || [])].filter((file) => file.type.startsWith("image/"));
        if (!images.length || !uploadArea()?.offsetParent) return;
        event.preventDefault();
        event.stopPropagation();
        upload(images);
    }, { capture: true });

    document.addEventListener("drop", async (event) => {
        if (!event.composedPath().includes(uploadArea())) return;
        const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
        if (!entries.some((entry) => entry.isDirectory)) return;
        event.preventDefault();
        event.stopPropagation();
        upload((await Promise.all(entries.map(filesOf))).flat());
    }, { capture: true });

    async function filesOf(entry) {
        if (entry.isFile) return [await new Promise((done, failed) => entry.file(done, failed))];
        const reader = entry.createReader(), entries = [];
        for (let some = null; !some || some.length;) { // it gives at most 100 at a time
            some = await new Promise((done, failed) => reader.readEntries(done, failed));
            entries.push(...some);
        }
        return (await Promise.all(entries.map(filesOf))).flat();
    }

    // A WebUI lists new files only when it is asked to: on every open page its dropdowns of checkpoints and the cards of
    // LoRAs and checkpoints have a refresh button. We press them when the list of saved files has changed.
    const HOST_REFRESH = ["refresh_sd_model_checkpoint", "forge_refresh_checkpoint"].concat(
        ["txt2img", "img2img"].flatMap((tab) => ["lora", "checkpoints"].map((cards) => `${tab}_${cards}_extra_refresh_internal`)));
    let knownFiles = null;

    setInterval(() => {
        const files = root().querySelector("#db_files");
        const paths = files && [...files.querySelectorAll("[data-db-saved]")].map((item) => item.dataset.dbSaved).join("\n");
        if (typeof paths !== "string" || paths === knownFiles || isOffline()) return;
        const isNew = knownFiles !== null && paths;
        knownFiles = paths;
        if (isNew) refreshHostLists();
    }, 1000);

    function refreshHostLists() {
        for (const id of HOST_REFRESH) root().querySelector(`#${id}`)?.dispatchEvent(new Event("click"));
    }

    // "Use it now": write a LoRA's tag into the prompt of a WebUI. Alone, there is no prompt and no such button.
    const hostPrompt = () => root().querySelector("#txt2img_prompt textarea");

    setInterval(() => root().querySelector("#db_page")?.classList.toggle("db_in_webui", Boolean(hostPrompt())), 1000);

    document.addEventListener("click", (event) => {
        const tag = event.composedPath().find((part) => part.dataset?.dbTag)?.dataset.dbTag;
        const prompt = hostPrompt();
        if (!tag || !prompt) return;
        if (!prompt.value.includes(tag)) {
            prompt.value = `${prompt.value.trimEnd()} ${tag}`.trimStart();
            prompt.dispatchEvent(new Event("input", { bubbles: true }));
        }
        refreshHostLists();
        event.composedPath()[0].textContent = "Added to txt2img prompt";
    });

    document.addEventListener("click", (event) => {
        const link = event.composedPath().find((part) => part.classList?.contains("db_goto"));
        if (!link) return;
        event.preventDefault();
        reveal(link.getAttribute("href"), link.dataset.tab, link.dataset.accordion);
    });
})();
