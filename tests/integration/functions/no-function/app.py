# SPDX-License-Identifier: Apache-2.0
def another_name(event, context):
    return event
