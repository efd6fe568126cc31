"""The loss and learning rate of a run, or the rates of one to come, as one small SVG; colours come from style.css."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dreambooth.ui.run_view import RunView

WIDTH, HEIGHT = 640, 200
LEFT, RIGHT, TOP, BOTTOM = 46, 58, 12, 22

Points = Sequence[tuple[float, float]]


def chart(run: RunView) -> str:
    """SVG text; without steps yet, the frame alone, so that nothing moves when the first one comes."""
    if len(run.loss.points) < 2:
        return f'<svg class="db_chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="No steps yet"></svg>'
    last = run.step["step"]
    drawn = (run.loss.smoothed(), run.prior.smoothed(), run.measured, run.drift)
    top = _ceiling([y for points in drawn for _, y in points])
    fastest = max((y for _, y in run.rate.points), default=0.0)
    parts = [
        _frame(top, last, fastest),
        _line(run.rate.points, last, fastest, "rate"),
        _line(run.loss.points, last, top, "loss_raw"),
        _line(run.prior.smoothed(), last, top, "prior"),
        _line(run.loss.smoothed(), last, top, "loss"),
        _dots(run.drift, last, top, "prior"),
        _dots(run.measured, last, top, "loss"),
    ]
    return f'<svg class="db_chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(parts)}</svg>{_legend(run)}'


def planned(rates: Mapping[str, Points]) -> str:
    """The learning rates of a run that has not begun: those that training will take, for each part that learns."""
    last = max(points[-1][0] for points in rates.values())
    fastest = max(y for points in rates.values() for _, y in points)
    parts = [_axis(), *_rate_labels(fastest), *_step_labels(last)]
    parts += [_line(points, last, fastest, "rate" if part == "unet" else "prior") for part, points in rates.items()]
    names = {"unet": ("rate", "UNET"), "text_encoder": ("prior", "text encoder")}
    keys = [(*names[part], max(y for _, y in points)) for part, points in rates.items()]
    legend = "".join(f'<span class="db_key db_key_{kind}">{name} up to {top:.3g}</span>' for kind, name, top in keys)
    title = "Learning rates of the run that is ready"
    svg = f'<svg class="db_chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">{"".join(parts)}</svg>'
    return f'{svg}<p class="db_legend">{title}: {legend}</p>'


def _ceiling(values: Sequence[float]) -> float:
    """A little above the highest smoothed value; single raw peaks may leave the picture."""
    return 1.25 * max(values, default=0.0) or 1.0


def _frame(top: float, last: float, fastest: float) -> str:
    bottom = HEIGHT - BOTTOM
    lines = [_axis()]
    for part in (0.0, 0.5, 1.0):
        y = bottom - part * (bottom - TOP)
        lines.append(f'<text x="{LEFT - 5}" y="{y + 4:.0f}" text-anchor="end">{part * top:.3g}</text>')
    return "".join([*lines, *_rate_labels(fastest), *_step_labels(last)])


def _axis() -> str:
    return f'<path class="db_axis" d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}V{TOP}"/>'


def _rate_labels(fastest: float) -> list[str]:
    places = ((TOP, fastest), (HEIGHT - BOTTOM, 0.0))
    return [f'<text x="{WIDTH - RIGHT + 5}" y="{y + 4:.0f}">{v:.2g}</text>' for y, v in places]


def _step_labels(last: float) -> list[str]:
    y, right = HEIGHT - 6, WIDTH - RIGHT
    return [f'<text x="{LEFT}" y="{y}">0</text>', f'<text x="{right}" y="{y}" text-anchor="end">step {last:g}</text>']


def _line(points: Points, last: float, top: float, kind: str) -> str:
    places = " ".join(f"{x:.1f},{y:.1f}" for x, y in _places(points, last, top))
    return f'<polyline class="db_curve db_curve_{kind}" points="{places}"/>' if places else ""


def _dots(points: Points, last: float, top: float, kind: str) -> str:
    """Measurements: few, and each counts."""
    places = _places(points, last, top)
    return "".join(f'<circle class="db_dot db_dot_{kind}" cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>' for x, y in places)


def _places(points: Points, last: float, top: float) -> list[tuple[float, float]]:
    """Where the points lie in the picture."""
    if not points or not top or not last:
        return []
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    return [(LEFT + x / last * width, HEIGHT - BOTTOM - min(1.0, max(0.0, y / top)) * height) for x, y in points]


def _legend(run: RunView) -> str:
    step = run.step
    entries = [("loss", "loss", run.loss.smoothed()), ("prior", "class loss", run.prior.smoothed()),
               ("dot_loss", "validation", run.measured), ("dot_prior", "class drift", run.drift)]  # fmt: skip
    parts = [f'<span class="db_key db_key_{kind}">{name} {points[-1][1]:.4f}</span>' for kind, name, points in entries
             if points]  # fmt: skip
    parts.append(f'<span class="db_key db_key_rate">learning rate {step.get("lr", 0.0):.3g}</span>')
    return f'<p class="db_legend">{"".join(parts)}</p>'
