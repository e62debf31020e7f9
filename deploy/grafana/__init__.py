"""Grafana dashboards as code: builders, the committed JSON, a lint, and a check of every query on live data.

`loop` and `experiment` describe the dashboards, `model` renders them, `generate` writes `dashboards/*.json`.
`provisioning/` holds the files that Grafana reads at start. Talking to a Grafana server is `deploy.grafana.gateway`.
"""
