"""Checks of dashboards without a Grafana server: rules for their JSON, and their queries run as Grafana runs them."""
