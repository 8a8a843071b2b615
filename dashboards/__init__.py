"""Grafana's dashboards of simfl, and what builds them."""
