// SPDX-License-Identifier: Apache-2.0
// The launcher's limits, in one place; docs/limits.md lists them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "wire/limits.h"

namespace hearth::launcher {

// A session holds at most its socket's queues and one Vmm record for each VMM.
inline constexpr size_t kMaxSessions = 8;
inline constexpr size_t kMaxVmms = 4096;  // Of all sessions; Listed names all of one in a frame.
inline constexpr size_t kListedIdBytes = 10;  // At most: a varint of 64 bits.
static_assert(kMaxVmms * kListedIdBytes < wire::kMaxVmmFrameBytes);
inline constexpr uint32_t kMaxGuestMemoryMib = 1024 * 1024;

// What a VMM may have beside its guest's memory: its own pages, KVM's page tables (a 512th of the
// guest's memory with 4 KiB pages, twice that when nested) and socket buffers.
inline constexpr uint64_t kOverheadMib = 32;
inline constexpr uint64_t kOverheadGuestShare = 64;  // Plus one part in so many of guest memory.
// Address space is dear to no one; thread stacks and arenas reserve much of it.
inline constexpr uint64_t kAddressSpaceMib = 1024;

inline constexpr uint64_t kMaxOpenFiles = 4096;  // Two for each vsock connection.
inline constexpr uint64_t kMaxThreads = 64;
// A file may not grow above this: writable disks, and a memfd if it backs the guest's memory.
inline constexpr uint64_t kMaxFileMib = 64 * 1024;

// One uid for each VMM. Above what useradd and containers use.
inline constexpr uint32_t kDefaultUidBase = 0x7F000000;
inline constexpr uint32_t kDefaultUidCount = 65536;

}  // namespace hearth::launcher
