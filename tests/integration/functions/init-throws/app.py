# SPDX-License-Identifier: Apache-2.0
raise RuntimeError("the configuration is missing")
