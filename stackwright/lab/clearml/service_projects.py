"""projects.*: the folders of tasks, named by their path. ClearML server: bll/project."""

from __future__ import annotations

from stackwright.lab.clearml.calls import Call, Endpoint
from stackwright.lab.clearml.faults import Refusal
from stackwright.lab.clearml.query import need_name, select
from stackwright.lab.clearml.service_tasks import forget
from stackwright.lab.clearml.state import Doc


def project_doc(call: Call) -> Doc:
    project = call.state.doc("projects", call.company, str(call.params["project"]))
    if project is None:
        raise Refusal("invalid_project_id", id=call.params["project"], company=call.company)
    return project


def create_project(call: Call) -> Doc:
    """Make a project, and those above it in its path."""
    name = need_name(call)
    if any(project["name"] == name for project in call.state.of_company("projects", call.company)):
        raise Refusal("expected_unique_data", name=name, company=call.company)
    parent = None
    parts = name.split("/")
    for depth in range(1, len(parts)):
        parent = _project_at(call, "/".join(parts[:depth]), parent)
    fields = {key: call.params[key] for key in ("description", "tags", "system_tags") if call.get(key)}
    return {"id": _add_project(call, name, parent, fields)["id"]}


def _project_at(call: Call, name: str, parent: str | None) -> str:
    for project in call.state.of_company("projects", call.company):
        if project["name"] == name:
            return str(project["id"])
    return str(_add_project(call, name, parent, {})["id"])


def _add_project(call: Call, name: str, parent: str | None, fields: Doc) -> Doc:
    basename = name.rsplit("/", 1)[-1]
    return call.state.add_doc(
        "projects",
        call.company,
        call.who.user,
        {"name": name, "basename": basename, "parent": parent, "description": ""} | fields,
    )


def get_projects(call: Call) -> Doc:
    return {"projects": select(call, call.state.of_company("projects", call.company), lists=("parent",))}


def get_project(call: Call) -> Doc:
    return {"project": project_doc(call)}


def update_project(call: Call) -> Doc:
    project = project_doc(call)
    names = ("name", "description", "tags", "system_tags", "default_output_destination")
    fields = {key: call.params[key] for key in names if call.get(key) is not None}
    project.update(fields)
    return {"updated": int(bool(fields)), "fields": fields}


def _inside(call: Call, project: Doc) -> list[Doc]:
    return [task for task in call.state.of_company("tasks", call.company) if task["project"] == project["id"]]


def validate_delete(call: Call) -> Doc:
    return {"tasks": len(_inside(call, project_doc(call))), "models": 0, "pipelines": 0, "datasets": 0}


def delete_project(call: Call) -> Doc:
    project = project_doc(call)
    tasks = _inside(call, project)
    if tasks and not (call.get("force") or call.get("delete_contents")):
        raise Refusal("project_has_tasks", "use force=true to delete", id=project["id"])
    for task in tasks:
        task["project"] = None
        if call.get("delete_contents"):
            forget(call, task)
    del call.state.docs["projects"][project["id"]]
    return {"deleted": 1, "disassociated_tasks": 0 if call.get("delete_contents") else len(tasks)}


def _named(call: Call) -> str:
    return str(call.get("name") or call.get("project") or "")


ENDPOINTS = {
    "projects.create": Endpoint(create_project, ("name",), types={"name": "text", "tags": "list"}, change=_named),
    "projects.get_all": Endpoint(get_projects, types={"name": "text", "id": "list"}),
    "projects.get_all_ex": Endpoint(get_projects, types={"name": "text", "id": "list"}),
    "projects.get_by_id": Endpoint(get_project, ("project",)),
    "projects.update": Endpoint(update_project, ("project",), types={"name": "text", "tags": "list"}),
    "projects.validate_delete": Endpoint(validate_delete, ("project",)),
    "projects.delete": Endpoint(delete_project, ("project",), change=_named),
}
