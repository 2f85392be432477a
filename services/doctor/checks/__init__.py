"""The checks: functions from an `Installation` to `CheckResult`s."""
