# SPDX-License-Identifier: Apache-2.0
"""Every case registers itself here, in the order in which it stands in its file."""

from typing import Callable, NamedTuple

CASES = []


class Case(NamedTuple):
    name: str
    function: Callable
    needs: tuple  # What not every backend has (backends.py).


def case(name, *needs):
    def register(function):
        CASES.append(Case(name, function, needs))
        return function
    return register


def cases(name, table, *needs):
    """One case for each row: `name` has the row's first column in place of {}; the function gets the row."""
    def register(function):
        for row in table:
            CASES.append(Case(name.format(row[0]), lambda world, row=row: function(world, *row), needs))
        return function
    return register
