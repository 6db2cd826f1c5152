"""What the profile observability reads: only metrics and labels that the service has, in files that the tools take."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml

from ihvp.jobs.states import JobState
from tests.containers.compose_file import ROOT, composed

DOCUMENT = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
DASHBOARD: dict[str, Any] = json.loads((ROOT / "docker/grafana/dashboards/ihvp.json").read_text(encoding="utf-8"))
TARGETS = [target for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]
ALERTS = yaml.safe_load((ROOT / "docker/prometheus/alerts.yml").read_text(encoding="utf-8"))
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]
EXPRESSIONS = [*(target["expr"] for target in TARGETS), *(rule["expr"] for rule in RULES)]
FUNCTIONS = {"max", "sum", "by", "rate", "increase", "time", "histogram_quantile"}


def metrics() -> dict[str, set[str]]:
    """Series → its labels, by the table that tests/app/test_metrics.py compares with what a service shows."""
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|([^|]*)\|", DOCUMENT, re.MULTILINE)
    found = {}
    for name, kind, cell in rows:
        labels = set(re.findall(r"`(\w+)`", cell))
        if kind == "histogram":
            found |= {f"{name}_bucket": labels | {"le"}, f"{name}_count": labels}
        else:
            found[name] = labels
    return found


METRICS = metrics()


def bare(expression: str) -> str:
    """Without strings, whose words are no names."""
    return re.sub(r'"[^"]*"', '""', expression)


def named(expression: str) -> set[str]:
    """The series of an expression: words that are no functions, labels or units."""
    plain = re.sub(r"\{[^}]*\}|\[[^]]*\]|by \([^)]*\)", " ", bare(expression))
    return set(re.findall(r"\b[a-z_]\w*", plain)) - FUNCTIONS


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_queries_and_alerts_name_series_and_labels_that_exist(expression: str) -> None:
    series = named(expression)
    assert series
    assert series <= set(METRICS)
    for name, selector in re.findall(r"(\w+)\{([^}]*)\}", bare(expression)):
        assert set(re.findall(r"(\w+)\s*[=!]~?", selector)) <= METRICS[name]
    known = set.union(*(METRICS[name] for name in series))
    for labels in re.findall(r"by \(([^)]*)\)", expression):
        assert set(labels.split(", ")) <= known
    assert expression.count("(") == expression.count(")")


def test_every_value_of_a_label_is_one_that_the_service_has() -> None:
    text = " ".join(EXPRESSIONS)
    assert set(re.findall(r'state="(\w+)"', text)) <= {state.value for state in JobState}
    assert set(re.findall(r'role="(\w+)"', text)) == {"reconciler"}
    assert set(re.findall(r'result="(\w+)"', text)) == {"hit"}


def test_what_the_store_counts_for_all_is_never_summed_over_instances() -> None:
    """docs/metrics.md: `max` over instances, and only then a sum over labels."""
    process = set(re.findall(r"^\| `(\w+)` \| \w+ \|[^|]*\| \*process\*", DOCUMENT, re.MULTILINE))
    for expression in EXPRESSIONS:
        for name in named(expression):
            base = name.removesuffix("_bucket").removesuffix("_count")
            before = expression.partition(name)[0]
            # The aggregation nearest to the series.
            nearest = re.findall(r"\b(max|sum)\b", before)[-1]
            assert nearest == ("sum" if base in process else "max"), expression


def test_the_dashboard_has_a_panel_for_every_kind_of_trouble_and_legends_that_can_be_filled() -> None:
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    shown = set.union(*(named(target["expr"]) for target in TARGETS))
    assert {name for rule in RULES for name in named(rule["expr"])} <= shown
    for target in TARGETS:
        by = ", ".join(re.findall(r"by \(([^)]*)\)", target["expr"])[:1]).split(", ")
        assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= set(by)
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24


def test_the_dashboard_reads_the_data_source_that_is_provisioned() -> None:
    folder = ROOT / "docker/grafana/provisioning"
    (source,) = yaml.safe_load((folder / "datasources/prometheus.yml").read_text())["datasources"]
    assert {target["datasource"]["uid"] for target in TARGETS} == {source["uid"]}
    assert source["url"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load((folder / "dashboards/ihvp.yml").read_text())["providers"]
    grafana = composed()["services"]["grafana"]
    assert f"./docker/grafana/dashboards:{provider['options']['path']}:ro" in grafana["volumes"]
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{provider['options']['path']}/ihvp.json"


def test_the_alerts_are_those_of_the_documentation() -> None:
    (block,) = [text for text in re.findall(r"```yaml\n(.*?)```", DOCUMENT, re.DOTALL) if text.startswith("groups:")]
    assert yaml.safe_load(block) == ALERTS


def test_prometheus_scrapes_the_api_with_the_key_that_start_sh_leaves() -> None:
    config = yaml.safe_load((ROOT / "docker/prometheus/prometheus.yml").read_text())
    (job,) = config["scrape_configs"]
    api = composed()["services"]["api"]
    assert job["static_configs"] == [{"targets": [f"api:{api['environment']['IHVP_PORT']}"]}]
    assert job["authorization"] == {"type": "Bearer", "credentials_file": "/tmp/metrics-key"}
    assert config["rule_files"] == ["/etc/ihvp/alerts.yml"]
    assert "beside" in api["networks"]


def test_the_collector_passes_traces_on_and_nothing_it_names_is_missing() -> None:
    config = yaml.safe_load((ROOT / "docker/otel-collector/config.yml").read_text())
    collector = composed()["services"]["otel-collector"]
    assert config["receivers"]["otlp"]["protocols"]["http"]["endpoint"].endswith(":4318")
    for pipeline in config["service"]["pipelines"].values():
        assert set(pipeline["receivers"]) <= set(config["receivers"])
        assert set(pipeline["processors"]) <= set(config["processors"])
        assert pipeline["exporters"] == ["${env:TRACES_EXPORTER}"]
    assert collector["environment"]["TRACES_EXPORTER"] in config["exporters"]
    asked = set(re.findall(r"\$\{env:(\w+)\}", (ROOT / "docker/otel-collector/config.yml").read_text()))
    assert asked == set(collector["environment"])
