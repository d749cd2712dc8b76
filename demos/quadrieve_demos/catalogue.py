"""As many tools as an agent of a large company has: those that were written, and others much like them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice

from quadrieve import InputError, Tool

from . import texts

#: Makes another tool of one that was written: its name, and what it does.
VARIANTS = (
    ("batch_{}", "Does for a long list of cases what {} does for one. {}"),
    ("preview_{}", "Shows what {} would do, and changes nothing. {}"),
    ("schedule_{}", "Runs {} at a time of your choice. {}"),
    ("undo_{}", "Takes back the last call of {}. {}"),
    ("repeat_{}", "Calls {} again with the arguments that it had last. {}"),
    ("{}_history", "Lists who called {} before, when, and with what result. {}"),
    ("{}_statistics", "Counts by day how often {} was called and how often it failed. {}"),
    ("{}_permissions", "Tells who may call {}, and lets you change that. {}"),
    ("{}_quota", "Tells how many calls of {} are left this month. {}"),
    ("{}_cost", "Works out what a call of {} will be charged. {}"),
    ("{}_sandbox", "The same as {} on invented data, to try it out. {}"),
    ("{}_legacy", "The old form of {}, for programs that still need it. {}"),
    ("request_{}", "Asks somebody with more rights to call {} for you. {}"),
    ("approve_{}", "Lets a call of {} that waits for approval go through. {}"),
    ("watch_{}", "Sends you a message whenever somebody calls {}. {}"),
    ("{}_for_team", "Calls {} for every member of a team. {}"),
    ("{}_on_behalf", "Calls {} in the name of another person who has allowed it. {}"),
    ("hotel_{}", "For the reception of a hotel and its guests: {1}"),
    ("school_{}", "For a school, its teachers and its pupils: {1}"),
    ("clinic_{}", "For a clinic, its wards and its patients: {1}"),
    ("warehouse_{}", "For a warehouse and those who work there: {1}"),
    ("fleet_{}", "For a fleet of delivery vans and its drivers: {1}"),
    ("vessel_{}", "For a ship, its bridge and its crew: {1}"),
    ("airline_{}", "For an airline, its crews and its passengers: {1}"),
    ("council_{}", "For a town council and its offices: {1}"),
    ("museum_{}", "For a museum and its visitors: {1}"),
    ("theatre_{}", "For a theatre, its stage and its audience: {1}"),
    ("farm_{}", "For a farm, its fields and its animals: {1}"),
    ("club_{}", "For a sports club and its members: {1}"),
    ("insurer_{}", "For an insurance company and its customers: {1}"),
)


def catalogue(n: int) -> list[Tool]:
    """The written tools, and variant by variant so many others that they are n.

    Raises:
        InputError: If there are not so many, or n leaves out some that were written and may require each other.

    Example:
        >>> [tool.name for tool in catalogue(167)][::166]
        ['create_event', 'batch_create_event']
    """
    written = texts.tools()
    most = len(written) * (1 + len(VARIANTS))
    if not len(written) <= n <= most:
        raise InputError(f"There are between {len(written)} and {most} tools to choose from, got {n}.")
    return [*written, *islice(_variants(written), n - len(written))]


def _variants(written: Sequence[Tool]) -> Iterator[Tool]:
    for name, does in VARIANTS:
        for tool in written:
            description = does.format(tool.name, tool.description)
            yield replace(tool, name=name.format(tool.name), description=description, usage=(), requires=())
