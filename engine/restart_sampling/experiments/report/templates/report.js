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
