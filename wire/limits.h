// SPDX-License-Identifier: Apache-2.0
// The limits of Hearth's own wire protocols, in one place; docs/limits.md lists them with the
// memory they imply.
#pragma once

#include <cstddef>
#include <cstdint>

namespace hearth::wire {

// A frame is a little-endian u32 payload length and the payload.
inline constexpr size_t kFrameHeaderBytes = 4;

// hearth.vmm.v1 and hearth.launcher.v1.
inline constexpr size_t kMaxVmmFrameBytes = 64 * 1024;
inline constexpr size_t kMaxFdsPerFrame = 16;
inline constexpr uint32_t kVmmMinVersion = 1;  // Of hearth.vmm.v1.
inline constexpr uint32_t kVmmMaxVersion = 1;
inline constexpr uint32_t kLauncherMinVersion = 1;
inline constexpr uint32_t kLauncherMaxVersion = 2;
inline constexpr uint32_t kLauncherListVersion = 2;  // The first that has List.

// A saved machine's state (hearth.vmm.v1.SavedMachine), and the runs of pages in a working set:
// with at most 14 bytes each they fit into a frame.
inline constexpr size_t kMaxSavedStateBytes = 1024 * 1024;
inline constexpr size_t kMaxPageRuns = 4096;
inline constexpr size_t kGuestPageBytes = 4096;

// hearth.agent.v1. A connection holds at most streams x credit of unread data in each direction.
inline constexpr size_t kMaxAgentFrameBytes = 128 * 1024;
inline constexpr size_t kMaxStreamChunkBytes = 64 * 1024;
inline constexpr uint32_t kInitialStreamCreditBytes = 256 * 1024;
inline constexpr uint32_t kMaxStreamCreditBytes = 4 * 1024 * 1024;
inline constexpr size_t kMaxStreams = 64;
inline constexpr size_t kMaxCallsInFlight = 64;
inline constexpr size_t kMaxLogLineBytes = 16 * 1024;
inline constexpr size_t kMaxHelloStringBytes = 256;
inline constexpr uint32_t kAgentMinVersion = 1;
inline constexpr uint32_t kAgentMaxVersion = 1;

// The host port on which the VMM accepts the agent's connection: the agent dials it when it is
// ready.
inline constexpr uint32_t kAgentHostPort = 1024;

}  // namespace hearth::wire
