"""Dashboards, alerts and recording rules, as readable source; `python -m charts.source --write` makes the files of the chart.

`catalog` knows the metrics, `promql` writes queries, `panels` and `board` are the frame of dashboards, `overview`,
`workload` and `process` are the three of them; `alerts_*` and `slo` are the rules.
"""
