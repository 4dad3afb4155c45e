"""The server's refusals: status, sub-code and text by name. ClearML server: apierrors/errors.conf."""

from __future__ import annotations

from typing import Any

TABLE: dict[str, tuple[int, int, str]] = {
    "bad_request": (400, 0, "bad request"),
    "invalid_headers": (400, 5, "invalid headers"),
    "impersonation_error": (400, 6, "impersonation error"),
    "invalid_id": (400, 10, "invalid object id"),
    "missing_required_fields": (400, 11, "missing required fields"),
    "validation_error": (400, 12, "validation error"),
    "fields_not_allowed_for_role": (400, 13, "fields not allowed for role"),
    "fields_value_error": (400, 16, "invalid value for fields"),
    "batch_contains_no_items": (400, 17, "batch request contains no items"),
    "invalid_regex_error": (400, 21, "malformed regular expression"),
    "invalid_email_address": (400, 22, "malformed email address"),
    "invalid_access_key": (400, 75, "access key not found"),
    "invalid_task_id": (400, 101, "invalid task id"),
    "invalid_task_status": (400, 110, "invalid task status"),
    "task_cannot_be_deleted": (400, 123, "task cannot be deleted"),
    "events_not_added": (400, 131, "events not added"),
    "invalid_user": (400, 300, "invalid user"),
    "invalid_user_id": (400, 301, "invalid user id"),
    "invalid_project_id": (400, 401, "invalid project id"),
    "project_has_tasks": (400, 402, "project has associated tasks"),
    "project_not_found": (400, 403, "project not found"),
    "invalid_queue_id": (400, 701, "invalid queue id"),
    "queue_not_empty": (400, 702, "queue is not empty"),
    "invalid_queue_or_task_not_queued": (400, 703, "invalid queue id or task not in queue"),
    "task_already_queued": (400, 706, "failed adding task to queue since task is already queued"),
    "no_default_queue": (400, 707, "no queue is tagged as the default queue for this company"),
    "multiple_default_queues": (
        400,
        708,
        "more than one queue is tagged as the default queue for this company",
    ),
    "data_validation_error": (400, 800, "data validation error"),
    "expected_unique_data": (
        400,
        801,
        "value combination already exists (unique field already contains this value)",
    ),
    "worker_not_registered": (400, 1004, "worker is not registered"),
    "bad_auth_type": (401, 10, "unauthorized (bad authentication header type)"),
    "no_credentials": (401, 20, "unauthorized (missing credentials)"),
    "bad_credentials": (401, 21, "unauthorized (malformed credentials)"),
    "invalid_credentials": (401, 22, "unauthorized (invalid credentials)"),
    "invalid_token": (401, 30, "invalid token"),
    "role_not_allowed": (403, 20, "forbidden (not allowed for role)"),
    "unknown_endpoint": (404, 0, ""),
    "general_error": (500, 0, "general server error"),
}


class Refusal(Exception):
    """One refused call. The named values go into the message and into `error_data`, as on the real server."""

    def __init__(self, kind: str, extra: str = "", /, *, text: str = "", **data: Any) -> None:
        self.status, self.code, usual = TABLE[kind]
        message = text or usual
        if extra:
            message += f" ({extra})"
        if data:
            message += ": " + ", ".join(f"{key}={_shown(value)}" for key, value in data.items())
        self.data = data
        super().__init__(message)


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple | set | frozenset):
        return "(" + ", ".join(str(item) for item in value) + ")"
    return str(value)
