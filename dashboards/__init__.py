"""Builds simfl's dashboards for Grafana."""
