# SPDX-License-Identifier: Apache-2.0
"""The program of the python runtimes. All of it is in a module, whose compiled form is in the image."""

import hearth_runtime

hearth_runtime.main()
