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

    // A field may lie in a tab that isn't shown, or in a folded group.
    function reveal(field) {
        for (let part = field.parentElement; part; part = part.parentElement) {
            if (part.id?.startsWith("db_tab_") && part.offsetParent === null) {
                const label = { db_tab_settings: "Settings", db_tab_concepts: "Concepts", db_tab_saving: "Saving",
                    db_tab_select: "Select", db_tab_create: "Create" }[part.id];
                const tabs = part.parentElement?.closest(".tabs, [id$=_tabs]") || root();
                [...tabs.querySelectorAll("button")].find((button) => button.innerText.trim() === label)?.click();
            }
            const fold = part.querySelector(":scope > button.label-wrap");
            if (fold && !fold.classList.contains("open")) fold.click();
        }
        setTimeout(() => {
            field.scrollIntoView({ block: "center" });
            field.querySelector("input, textarea")?.focus();
        }, 100);
    }

    document.addEventListener("click", (event) => {
        const link = event.composedPath().find((part) => part.classList?.contains("db_goto"));
        const field = link && root().querySelector(link.getAttribute("href"));
        if (!field) return;
        event.preventDefault();
        reveal(field);
    });
})();
