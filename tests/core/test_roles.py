"""Roles and tasks."""

import pytest

from quadrieve import InputError, Role, Task, find_task, register_task, tasks


def test_the_six_tasks_of_the_paper_have_both_prefixes() -> None:
    six = {task.name: task for task in tasks()}
    assert {"qa", "convsearch", "chat", "lrlm", "icl", "tool"} <= set(six)
    for name in ("qa", "convsearch", "chat", "lrlm", "icl", "tool"):
        assert six[name].query_prefix.endswith(": ")
        assert six[name].key_prefix.endswith(": ")
        assert six[name].query_prefix != six[name].key_prefix


def test_a_role_stands_for_its_task() -> None:
    assert [find_task(role).name for role in Role] == ["qa", "chat", "icl", "tool"]


def test_a_seventh_task_is_accepted_and_found() -> None:
    code = Task("code_search_test", Role.KNOWLEDGE, "Find code: ", "Code: ")
    assert register_task(code) is code
    assert find_task("code_search_test") == code
    assert register_task(code) == code


def test_a_task_cannot_take_another_s_name() -> None:
    with pytest.raises(InputError, match="other prefixes"):
        register_task(Task("qa", Role.KNOWLEDGE, "a", "b"))
    with pytest.raises(InputError, match="name of a role"):
        register_task(Task("memory", Role.MEMORY, "a", "b"))


def test_an_unknown_role_is_told_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"Unknown role or task 'wisdom'; the roles are knowledge, memory.*qa"):
        find_task("wisdom")
