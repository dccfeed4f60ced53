"""Packaging of hostdaemon.

``package_dir`` is spelled out because without it a PEP 660 editable install
does not map ``twisted.plugins`` and the twistd command goes missing.
"""

from pathlib import Path

from setuptools import find_packages, setup

RUNTIME = [
    "twisted>=24.7",
    "psutil>=5.9.6",
    "PyYAML>=6.0.1",
    "grpcio>=1.85.1",
    "protobuf>=7.35.1",
    "pyOpenSSL>=24.0",
    "service-identity>=24.1",
    "klein>=24.8",
    "msgspec>=0.18.6",
    "prometheus_client>=0.20",
    "click>=8.1",
    "rich>=13.7",
    "jsonschema>=4.21",
    "grpcio-health-checking>=1.85.1",
    "grpcio-status>=1.85.1",
    "grpcio-reflection>=1.85.1",
    "cryptography>=42",
]
TEST = ["pytest>=8", "pytest-cov>=5", "pytest-xdist>=3", "coverage>=7.10", "hypothesis>=6.100"]
LINT = [
    "grpcio-tools==1.85.1", "ruff>=0.5", "mypy>=1.11", "import-linter>=2.0", "types-PyYAML", "types-psutil",
]

setup(
    name="hostdaemon",
    version="0.1.0",
    description="One daemon per host: keeps telemetry agents alive and collects host metrics",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=[*find_packages(include=["daemon*"]), "twisted.plugins"],
    package_dir={"": "."},
    package_data={"daemon": ["py.typed"], "daemon.web": ["static/*"]},
    install_requires=RUNTIME,
    extras_require={"test": TEST, "dev": TEST + LINT},
    entry_points={
        "console_scripts": ["hostagent=daemon.agentkit.tap:main", "hostctl=daemon.cli.entry:main"],
    },
)
