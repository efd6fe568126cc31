// Loss chart: the values under the pointer, read back from the curves. Gradio's own plots are not the same from 3 to 6.
(() => {
    const root = () => document.querySelector("gradio-app")?.shadowRoot || document;

    document.addEventListener("pointermove", (event) => {
        const chart = event.composedPath().find((part) => part.matches?.(".db_chart[data-last]"));
        let values = root().querySelector("#db_chart_values");
        if (!chart) return values?.remove();
        if (!values) {
            values = Object.assign(document.createElement("div"), { id: "db_chart_values" });
            root().querySelector("#db_page").append(values);
        }
        values.replaceChildren(...chartValues(chart, event.clientX).map((textContent) =>
            Object.assign(document.createElement("span"), { textContent })));
        values.style.left = `${Math.min(event.clientX + 14, innerWidth - values.offsetWidth - 4)}px`;
        values.style.top = `${Math.max(4, event.clientY - values.offsetHeight - 10)}px`;
    });

    function chartValues(chart, clientX) {
        const [left, right, top, bottom] = chart.dataset.plot.split(" ").map(Number);
        const area = chart.getBoundingClientRect();
        const pointer = (clientX - area.left) / area.width * chart.viewBox.baseVal.width;
        const x = Math.min(right, Math.max(left, pointer));
        const distance = (point) => Math.abs(point[0] - x);
        const texts = [`step ${Math.round((x - left) / (right - left) * chart.dataset.last)}`];
        for (const curve of chart.querySelectorAll("[data-name]")) {
            const points = curve.points ? [...curve.points].map((point) => [point.x, point.y])
                : [...curve.children].map((dot) => [dot.cx.baseVal.value, dot.cy.baseVal.value]);
            const point = points.reduce((best, other) => (distance(other) < distance(best) ? other : best));
            if (!curve.points && distance(point) > 6) continue; // no measurement here
            const value = (bottom - point[1]) / (bottom - top) * curve.dataset.top;
            texts.push(`${curve.dataset.name} ${value.toPrecision(3)}`);
        }
        return texts;
    }
})();
