"""How the report of the official conformance program is judged."""

import pytest

from tests.conformance.official import Report, read_report

JUNIT = """<testsuites time="5.5" tests="954" failures="1" skipped="1">
  <testsuite name="OCI Conformance Test" tests="954" failures="1" errors="0" skipped="1" {more}>
    <properties><property name="Config" value="version: dev"></property></properties>
    <testcase name="OCI/ping" classname="" time="0.1" status="passed"></testcase>
    <testcase name="OCI/mount" classname="" time="0.1" status="skipped">
      <system-out>fell back</system-out></testcase>
    <testcase name="OCI/chunked" classname="" time="0.1" status="failure">
      <system-out>unexpected status code</system-out></testcase>
  </testsuite>
</testsuites>"""


def test_counts_and_names() -> None:
    report = read_report(JUNIT.format(more='disabled="2"'))
    assert report == Report(954, 1, 0, 1, 2, ("failure: OCI/chunked: unexpected status code",))
    assert report.passed == 950
    assert read_report(JUNIT.format(more="")).disabled == 0
    assert str(report) == "950 Pass, 1 FAIL, 0 Error, 1 Skip, 2 Disabled: 954"


@pytest.mark.parametrize(
    ("version", "report", "clean"),
    [
        ("dev", Report(986, 0, 0, 0, 0, ()), True),
        ("dev", Report(986, 1, 0, 0, 0, ("failure: x: y",)), False),
        ("dev", Report(986, 0, 1, 0, 0, ("error: x: y",)), False),
        ("dev", Report(986, 0, 0, 1, 0, ()), False),
        ("dev", Report(986, 0, 0, 0, 2, ()), False),
        ("dev", Report(899, 0, 0, 0, 0, ()), False),
        ("stable", Report(862, 0, 0, 0, 2, ()), True),
        ("stable", Report(862, 0, 0, 1, 2, ()), False),
        ("stable", Report(849, 0, 0, 0, 2, ()), False),
    ],
)
def test_only_a_whole_run_without_a_blemish_is_clean(
    version: str, report: Report, clean: bool
) -> None:
    assert (report.problems(version) == []) is clean
