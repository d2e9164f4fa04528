# SPDX-License-Identifier: Apache-2.0
"""Every case registers itself here, in the order in which it stands in its file."""

CASES = []


def case(name):
    def register(function):
        CASES.append((name, function))
        return function
    return register


def cases(name, table):
    """One case for each row: `name` has the row's first column in place of {}; the function gets the row."""
    def register(function):
        for row in table:
            CASES.append((name.format(row[0]), lambda world, row=row: function(world, *row)))
        return function
    return register
