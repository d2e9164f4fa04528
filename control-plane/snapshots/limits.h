// SPDX-License-Identifier: Apache-2.0
// The limits of the snapshot store, in one place; docs/snapshots.md lists them. What it holds at
// worst beside the resident memories: a manifest (32 MiB for 64 GiB of memory) for each call under
// way.
#pragma once

#include <cstddef>
#include <cstdint>

namespace hearth::control::limits {

inline constexpr uint32_t kSnapshotFormatVersion = 1;

inline constexpr size_t kMaxSnapshotHeaderBytes = 64 * 1024;
inline constexpr uint32_t kMaxSnapshotMemoryMib = 64 * 1024;
inline constexpr size_t kMaxTenantIdBytes = 64;

// Fixed in format 1; docs/snapshots.md has the measurement that chose it.
inline constexpr size_t kSnapshotChunkBytes = 64 * 1024;
inline constexpr size_t kSnapshotDigestBytes = 32;
inline constexpr size_t kSnapshotKeyBytes = 32;

// A stored chunk: which of its pages are not zero, as 16 bits, and those pages.
inline constexpr size_t kMaxStoredChunkBytes = 2 + kSnapshotChunkBytes;

// A manifest: a digest for each chunk, and what protobuf adds.
inline constexpr size_t kMaxMemoryManifestBytes =
    (size_t{kMaxSnapshotMemoryMib} << 20) / kSnapshotChunkBytes * kSnapshotDigestBytes + 64;
// The working set's MAC, and at most 16 bytes for each of wire::kMaxPageRuns runs.
inline constexpr size_t kMaxWorkingSetFileBytes = 80 * 1024;

}  // namespace hearth::control::limits
