"""The HTML of the page, a Jinja template. Everything is escaped but plotly.js and figures, which are escaped JSON."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: #222; font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
header, main, footer { max-width: 1180px; margin: 0 auto; padding: 0 20px; }
header { padding-top: 28px; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 6px; }
h2 { font-size: 1.3rem; line-height: 1.25; margin: 0 0 6px; }
a { color: #005a9c; }
nav ul { display: flex; flex-wrap: wrap; gap: 4px 18px; padding: 0; margin: 14px 0 0; list-style: none; }
section { border-top: 1px solid #ddd; margin-top: 30px; padding-top: 22px; }
p { margin: 6px 0 12px; max-width: 75ch; }
.muted, figcaption { color: #555; }
.claims { border-left: 4px solid #00805f; padding: 2px 0 2px 14px; margin: 16px 0 0; }
.missing { background: #f5f5f2; border: 1px solid #ddd; border-radius: 6px; padding: 12px 16px; max-width: none; }
.choose { display: block; margin: 10px 0; }
select { font: inherit; color: inherit; max-width: 100%; padding: 4px 6px; background: #fff; border: 1px solid #888; }
figure { margin: 8px 0 0; }
.wide { overflow-x: auto; }
.wide .plot { min-width: 900px; }
.plot image { image-rendering: pixelated; }
.shown { font-size: .9rem; margin: 4px 0; max-width: none; }
details { margin: 10px 0 0; }
summary { cursor: pointer; padding: 4px 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .84rem; line-height: 1.35; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid #e2e2e2; padding: 4px 10px; text-align: left; vertical-align: top; white-space: nowrap; }
thead th { background: #f5f5f2; }
tbody tr:nth-child(even) { background: #fafaf8; }
.grids { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 240px), 1fr)); gap: 22px; }
.grids img { display: block; width: 100%; height: auto; }
.grids figcaption { font-size: .92rem; margin-top: 4px; }
pre, code { font: .88rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
pre { background: #f5f5f2; border: 1px solid #ddd; border-radius: 6px; padding: 10px 14px; overflow-x: auto; margin: 8px 0; }
footer { padding-bottom: 50px; }
@media print {
  section { break-inside: avoid; border-color: #999; }
  nav, .choose, details:not([open]) { display: none; }
}
"""

SCRIPT = """
(function () {
  "use strict";
  var config = {responsive: true, displaylogo: false, scrollZoom: false,
                showSendToCloud: false, plotlyServerURL: "",  // nothing leaves the page
                modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"]};
  var places = new WeakMap();
  function narrow(data, layout, width) {  // on a phone the legend goes under the picture, one entry a line
    if (width < 720) {  // names beside points would cover each other: the legend and a touch still tell them
      data.forEach(function (t) { if (t.mode) { t.mode = t.mode.replace("+text", ""); } });
    }
    var entries = data.filter(function (t) { return t.showlegend !== false; }).length;
    if (width >= 720 || entries < 2 || layout.showlegend === false) { return layout; }
    var extra = 21 * entries + 60;
    layout.height = layout.height + extra;
    layout.legend = Object.assign({}, layout.legend, {orientation: "h", entrywidth: 0.98, entrywidthmode: "fraction",
      x: 0, xanchor: "left", y: 0, yref: "container", yanchor: "bottom"});
    layout.margin = Object.assign({}, layout.margin, {b: extra});
    layout.font = Object.assign({}, layout.font, {size: 12});
    return layout;
  }
  function draw(view) {
    var plot = view.querySelector(".plot");
    if (!plot) { return; }
    if (places.has(plot)) { Plotly.Plots.resize(plot); return; }
    var figure = JSON.parse(view.querySelector("script").textContent);
    var layout = narrow(figure.data, figure.layout, plot.clientWidth);
    plot.style.height = layout.height + "px";
    places.set(plot, true);
    Plotly.newPlot(plot, figure.data, layout, config);
  }
  document.querySelectorAll("section").forEach(function (section) {
    var views = section.querySelectorAll(".view"), chooser = section.querySelector("select");
    function show(n) {
      views.forEach(function (view, i) { view.hidden = i !== n; });
      if (views[n]) { draw(views[n]); }
    }
    if (views.length) { show(0); }
    if (chooser) {
      chooser.value = "0";
      chooser.addEventListener("change", function () { show(Number(chooser.value)); });
    }
  });
})();
"""

PAGE = (
    """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<link rel="icon" href="data:,">
<style>"""
    + STYLE
    + """</style>
</head>
<body>
{% macro show(table) %}
<div class="scroll" tabindex="0"><table>
<thead><tr>{% for name in table.columns %}<th scope="col">{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for line in table.cells %}
<tr>{% for cell in line %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
{% endmacro %}
{% macro folded(tables) %}
{% for name, table in tables %}
<details><summary>{{ name }}: {{ table.cells | length }} rows</summary>
{{ show(table) }}
</details>
{% endfor %}
{% endmacro %}
<header>
<h1>{{ title }}</h1>
<p class="muted">{{ summary }}</p>
{% if claims %}<div class="claims">{% for claim in claims %}<p>{{ claim }}</p>{% endfor %}</div>{% endif %}
<nav aria-label="Sections"><ul>
{% for section in sections %}
<li><a href="#{{ section.anchor }}">{{ section.title }}</a></li>
{% endfor %}
<li><a href="#environment">Where it was measured</a></li>
<li><a href="#again">How to make it again</a></li>
</ul></nav>
<noscript><p class="missing">The pictures need JavaScript; the tables under them do not.</p></noscript>
</header>
<main>
{% for section in sections %}
<section id="{{ section.anchor }}">
<h2>{{ section.title }}</h2>
{% if section.lead %}<p>{{ section.lead }}</p>{% endif %}
{% if section.missing %}
<p class="missing">{{ section.missing }}
{% if section.command %}This makes them: <code>{{ section.command }}</code>{% endif %}</p>
{% endif %}
{% for note in section.notes %}<p class="muted">{{ note }}</p>{% endfor %}
{% if section.views | length > 1 %}
<label class="choose">Shown: <select>
{% for place, label in section.choices %}<option value="{{ place }}">{{ label }}</option>
{% endfor %}</select></label>
{% endif %}
{% for view in section.views %}
<div class="view"{% if not loop.first %} hidden{% endif %}>
<figure role="group" aria-label="{{ section.title }}: {{ view.label }}"{% if section.wide %} class="wide" tabindex="0"{% endif %}>
<div class="plot" style="height: {{ view.height }}px"></div>
</figure>
<p class="shown muted">Shown: {{ view.label }}.</p>
<script type="application/json">{{ view.figure | safe }}</script>
{{ folded(view.tables) }}</div>
{% endfor %}
{{ folded(section.tables) }}
{% if section.pictures %}
<div class="grids">
{% for picture in section.pictures %}
<figure><img src="{{ picture.uri }}" width="{{ picture.width }}" height="{{ picture.height }}" alt="{{ picture.alt }}">
<figcaption>{{ picture.caption }}</figcaption></figure>
{% endfor %}
</div>
{% endif %}
</section>
{% endfor %}
<section id="environment">
<h2>Where it was measured</h2>
{% if environments.cells %}{{ show(environments) }}{% else %}<p class="missing">There are no rows.</p>{% endif %}
</section>
<section id="again">
<h2>How to make it again</h2>
<p>Rows are appended to the folder's .jsonl files; a page is made of all of them, the newest row of a measurement counting.</p>
<pre><code>{% for command in commands %}{{ command }}
{% endfor %}</code></pre>
</section>
</main>
<footer class="muted"></footer>
<script>{{ plotly | safe }}</script>
<script>"""
    + SCRIPT
    + """</script>
</body>
</html>
"""
)
