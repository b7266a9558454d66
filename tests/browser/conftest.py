"""Lets the tests of this folder share a browser, and one running pipeline with those of ``e2e``."""

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.import_plugin("tests.support.fixtures")
    config.pluginmanager.import_plugin("tests.support.day")
    config.pluginmanager.import_plugin("tests.support.browsing")
