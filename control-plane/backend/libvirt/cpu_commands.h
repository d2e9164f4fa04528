// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <CLI/CLI.hpp>
#include <functional>

#include "absl/status/status.h"

namespace hearth::libvirt {

// Adds `cpu` and `baseline`. `run` is the one that was given, if any.
void AddCpuCommands(CLI::App* app, std::function<absl::Status()>* run);

}  // namespace hearth::libvirt
