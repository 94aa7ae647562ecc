"""`mshare exporter`: what `mshare scan` finds, for Prometheus. Needs the extra `exporter`, which only `metrics` and
`server` import. `dashboard.json` is for Grafana, `alerts.yml` for Prometheus."""
