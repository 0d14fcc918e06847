"""The options of the service, read from its source."""

import re

from conftest import ROOT

# Variables that are no options of the service.
OTHERS = {
    "SSL_CERT_FILE",  # docs/SECURITY.md, the authorities of issuers
    # OpenTelemetry's own, read in src/telemetry/exporters.rs or by its SDK.
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_PROTOCOL",
    "OTEL_EXPORTER_OTLP_HEADERS",
    "OTEL_SERVICE_NAME",
    "OTEL_RESOURCE_ATTRIBUTES",
}

# Options that have a value of their own in the chart, or none because the image has no embedded PostgreSQL.
SET_BY_THE_CHART = {
    "CUSTOMER_ACCOUNTS_LISTEN",
    "CUSTOMER_ACCOUNTS_METRICS_LISTEN",
    "CUSTOMER_ACCOUNTS_MIGRATE",
    "CUSTOMER_ACCOUNTS_TLS_CERT",
    "CUSTOMER_ACCOUNTS_TLS_KEY",
    "CUSTOMER_ACCOUNTS_TLS_CLIENT_CA",
    "CUSTOMER_ACCOUNTS_CLIENT_CERT",
    "CUSTOMER_ACCOUNTS_CLIENT_KEY",
    "DATABASE_URL",
    "CUSTOMER_ACCOUNTS_MIGRATION_DATABASE_URL",
    "CUSTOMER_ACCOUNTS_DATA_DIR",
}


def attributes():
    """The variable and the attributes of each option that every command takes."""
    for path in ("src/config.rs", "src/caller/options.rs"):
        for text in re.findall(r"#\[arg\((.*?)\)\]\n", (ROOT / path).read_text(), re.DOTALL):
            variable = re.search(r'\benv = "(\w+)"', text)
            if variable and re.search(r"\bglobal = true\b", text):
                yield variable[1], text


def parsed_by(parser):
    """The names of the options that a function parses."""
    found = {name for name, text in attributes() if re.search(rf"\bvalue_parser = {parser}\b", text)}
    assert found, f"no option is parsed by {parser}"
    return {name.removeprefix("CUSTOMER_ACCOUNTS_").lower().replace("_", "-") for name in found}


def of_the_service():
    """The variables of all options that every command takes."""
    found = {variable for variable, _ in attributes()}
    assert len(found) > 50, "the options of src/config.rs are written in another way than this expects"
    return found
