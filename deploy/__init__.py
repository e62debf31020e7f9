"""The command line, the local stack, the demo, migrations and dashboards."""
