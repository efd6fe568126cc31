// Shows how far a run is in the browser tab's title, which Gradio can't set. WebUIs load this file by themselves.
(() => {
    const MARK = /^\[Dreambooth [^\]]*\] /;
    const root = () => document.querySelector("gradio-app")?.shadowRoot || document;
    setInterval(() => {
        const bar = root().querySelector("#db_status progress");
        const share = bar?.hasAttribute("value") ? `${Math.round(bar.value * 100)}%` : "…";
        const plain = document.title.replace(MARK, "");
        const title = bar ? `[Dreambooth ${share}] ${plain}` : plain;
        if (document.title !== title) document.title = title;
    }, 1000);
})();
