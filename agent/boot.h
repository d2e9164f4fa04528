// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "vmm/base/unique_fd.h"

namespace hearth::agent {

// How the agent reaches the host. "hearth.transport=vsock" or "=virtio-serial" on the kernel's
// command line; without it vsock is tried, and the serial port when there is no vsock device.
enum class Transport { kAny, kVsock, kVirtioSerial };
absl::StatusOr<Transport> TransportOf(absl::string_view kernel_command_line);

// Brings up the loopback interface.
absl::Status BringUpLoopback();

// vsock: dials CID 2, port wire::kAgentHostPort. virtio-serial: opens the port named "agent".
absl::StatusOr<UniqueFd> Connect(Transport transport);

}  // namespace hearth::agent
