"""Panels: time series, numbers, tables and heatmaps that all look alike. Each needs a description that says what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from grafana_foundation_sdk.builders import common as ui
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.builders import heatmap, prometheus, stat, table, timeseries
from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models import heatmap as heatmap_model
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SOURCE: Final = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
"""Whatever Prometheus the reader chooses on top of the page."""
GREEN, YELLOW, RED = "green", "orange", "red"
SECONDS, PER_SECOND, PERCENT, BYTES, BYTES_PER_SECOND, COUNT = "s", "reqps", "percentunit", "bytes", "Bps", "short"
EVENTS: Final = "cps"


@dataclass(frozen=True, kw_only=True)
class Query:
    """One query: PromQL, how its series are called, and whether traces are shown as points on it."""

    expr: str
    legend: str = ""
    exemplars: bool = False


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a table: the value of an instant query. `bad` turns it red."""

    title: str
    expr: str
    unit: str = COUNT
    warn: float | None = None
    bad: float | None = None


@dataclass(frozen=True, kw_only=True)
class Link:
    """From a label's cell in a table to another page."""

    label: str
    title: str
    url: str


def graph(
    title: str,
    description: str,
    *queries: Query,
    unit: str,
    span: int = 8,
    stack: bool = False,
    warn: float | None = None,
    bad: float | None = None,
    maximum: float | None = None,
) -> model.Panel:
    """Lines over time; `warn` and `bad` are drawn as dashed lines."""
    panel = timeseries.Panel().unit(unit).min(0).fill_opacity(20 if stack else 8).line_width(1).show_points(common.VisibilityMode.NEVER)
    panel = panel.legend(
        ui.VizLegendOptions()
        .show_legend(True)
        .display_mode(common.LegendDisplayMode.TABLE)
        .placement(common.LegendPlacement.BOTTOM)
        .calcs(["lastNotNull", "max"])
    ).tooltip(ui.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI).sort(common.SortOrder.DESCENDING))
    if maximum is not None:
        panel = panel.max(maximum)
    if stack:
        panel = panel.stacking(ui.StackingConfig().mode(common.StackingMode.NORMAL).group("A"))
    if bad is not None or warn is not None:
        panel = panel.thresholds(_thresholds(warn, bad)).thresholds_style(
            ui.GraphThresholdsStyleConfig().mode(common.GraphTresholdsStyleMode.DASHED)
        )
    return _finish(panel.build(), title, description, [_range(query) for query in queries], span, 9)


def number(
    title: str,
    description: str,
    expr: str,
    *,
    unit: str = COUNT,
    span: int = 4,
    warn: float | None = None,
    bad: float | None = None,
    low_is_bad: bool = False,
) -> model.Panel:
    """One number with the course of it behind; green until `warn` and `bad` (or below them, `low_is_bad`)."""
    panel = (
        stat.Panel()
        .unit(unit)
        .color_mode(common.BigValueColorMode.VALUE)
        .graph_mode(common.BigValueGraphMode.AREA)
        .reduce_options(ui.ReduceDataOptions().calcs(["lastNotNull"]).fields("").values(False))
        .thresholds(_thresholds(warn, bad, low_is_bad=low_is_bad))
        .no_value("none")
    )
    return _finish(panel.build(), title, description, [_range(Query(expr=expr))], span, 4)


def grid(
    title: str,
    description: str,
    *columns: Column,
    span: int = 24,
    sort: str = "",
    links: Sequence[Link] = (),
) -> model.Panel:
    """A table: a row per label set, a column per query; the queries must have the same labels. Worst first by `sort`."""
    panel = table.Panel().show_header(True).footer(ui.TableFooterOptions().show(False)).no_value("0")
    for letter, column in zip(_LETTERS, columns, strict=False):
        panel = panel.override_by_name(f"Value #{letter}" if len(columns) > 1 else "Value", _column(column))
    for link in links:
        shown = {"title": link.title, "url": link.url, "targetBlank": False}
        panel = panel.override_by_name(link.label, [model.DynamicConfigValue("links", [shown])])
    if sort:
        panel = panel.sort_by([ui.TableSortByFieldState().display_name(sort).desc(True)])
    built = panel.build()
    built.transformations = [
        model.DataTransformerConfig("merge", options={}),
        model.DataTransformerConfig(
            "organize", options={"excludeByName": dict.fromkeys(["Time", "__name__"], True), "indexByName": {}, "renameByName": {}}
        ),
    ]
    targets = [prometheus.Dataquery().expr(column.expr).instant().format(PromQueryFormat.TABLE) for column in columns]
    return _finish(built, title, description, targets, span, 9)


def heat(title: str, description: str, buckets: str, *, span: int = 8, exemplars: bool = False) -> model.Panel:
    """A histogram over time; `buckets` sums rates by `le`."""
    color = (
        heatmap.HeatmapColorOptions()
        .mode(heatmap_model.HeatmapColorMode.SCHEME)
        .scheme("Oranges")
        .scale(heatmap_model.HeatmapColorScale.EXPONENTIAL)
    )
    panel = (
        heatmap.Panel()
        .calculate(False)
        .color(color.exponent(0.5).steps(64).fill("dark-orange"))
        .y_axis(heatmap.YAxisConfig().unit(SECONDS).axis_placement(common.AxisPlacement.LEFT))
        .cell_gap(1)
        .filter_values(heatmap.FilterValueRange().le(1e-9))
        .show_tooltip()
        .scale_distribution(ui.ScaleDistributionConfig().type(common.ScaleDistribution.LINEAR))
        .exemplars_color("rgba(31,120,193,0.9)")
    )
    query = prometheus.Dataquery().expr(buckets).range().format(PromQueryFormat.HEATMAP).legend_format("{{le}}").exemplar(exemplars)
    return _finish(panel.build(), title, description, [query], span, 9)


_LETTERS: Final = "ABCDEFGHIJKLMNOP"


def _range(query: Query) -> prometheus.Dataquery:
    return prometheus.Dataquery().expr(query.expr).legend_format(query.legend or "__auto").range().exemplar(query.exemplars)


def _column(column: Column) -> list[model.DynamicConfigValue]:
    values = [model.DynamicConfigValue("displayName", column.title), model.DynamicConfigValue("unit", column.unit)]
    if column.bad is not None or column.warn is not None:
        values.append(model.DynamicConfigValue("thresholds", _thresholds(column.warn, column.bad).build()))
        values.append(model.DynamicConfigValue("custom.cellOptions", {"type": "color-text"}))
    return values


def _thresholds(warn: float | None, bad: float | None, *, low_is_bad: bool = False) -> build.ThresholdsConfig:
    first, colors = (RED, (YELLOW, GREEN)) if low_is_bad else (GREEN, (YELLOW, RED))
    values = (bad, warn) if low_is_bad else (warn, bad)
    steps = [model.Threshold(value=None, color=first)]
    steps += [model.Threshold(value=value, color=color) for value, color in zip(values, colors, strict=True) if value is not None]
    return build.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(steps)


def _finish(
    panel: model.Panel, title: str, description: str, queries: Sequence[prometheus.Dataquery], span: int, height: int
) -> model.Panel:
    panel.title, panel.description, panel.datasource = title, description, SOURCE
    panel.targets = [query.ref_id(letter).datasource(SOURCE).build() for letter, query in zip(_LETTERS, queries, strict=False)]
    panel.grid_pos = model.GridPos(h=height, w=span)
    return panel
