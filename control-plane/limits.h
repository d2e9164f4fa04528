// SPDX-License-Identifier: Apache-2.0
// The limits of hearthd's API half, in one place; docs/api.md lists them. What they sum up to: at
// most kMaxBufferedBytes of payloads and responses, kMaxLogBytes of log lines, kMaxFollowers times
// kMaxFollowerBytes of lines waiting for followers, and one thread for each call that may block.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/time/time.h"

namespace hearth::control::limits {

// Messages and payloads.
inline constexpr int kMaxMessageBytes =
    8 * 1024 * 1024;  // Received; lets a 6 MB payload be refused well.
inline constexpr size_t kMaxUnaryPayloadBytes = 1024 * 1024;
inline constexpr size_t kMaxChunkBytes = 1024 * 1024;
inline constexpr size_t kMaxPayloadBytes = 6'291'456;
// As Lambda's: what a runtime wraps around 6 MB may take 100 bytes.
inline constexpr size_t kMaxResponseBytes = kMaxPayloadBytes + 100;
inline constexpr size_t kMaxBufferedBytes =
    1024 * 1024 * 1024;  // Payloads and responses in flight.
inline constexpr size_t kMaxClientContextBytes = 3583;
inline constexpr size_t kMaxContentTypeBytes = 255;
inline constexpr size_t kMaxTraceParentBytes = 55;
inline constexpr size_t kMaxIdempotencyKeyBytes = 128;
inline constexpr size_t kMaxErrorTextBytes = 16 * 1024;  // Each text of a FunctionError.
inline constexpr size_t kMaxStackTraceLines = 64;

// Calls at once. Each holds a thread; what is over is RESOURCE_EXHAUSTED.
inline constexpr size_t kMaxInvocations = 256;
inline constexpr size_t kMaxOpenStreams = 512;  // InvokeStream calls; no thread while they send.
inline constexpr size_t kMaxFollowers = 32;
inline constexpr size_t kMaxWaits = 64;
inline constexpr size_t kMaxUploads = 8;
inline constexpr int kMaxUnaryThreads = 64;  // gRPC's own threads, for the short calls and uploads.
inline constexpr size_t kMaxDeploysAtOnce = 2;
inline constexpr size_t kMaxDeploysQueued = 32;
inline constexpr size_t kMaxRebuildsAtOnce = 1;
inline constexpr size_t kMaxRebuildsQueued = 32;
inline constexpr int kMaxOperations = 1000;  // The newest of each tenant, beside those under way.

// Resources.
inline constexpr int kDefaultPageSize = 100;
inline constexpr int kMaxPageSize = 1000;
inline constexpr size_t kMaxDisplayNameBytes = 256;
inline constexpr size_t kMaxDescriptionBytes = 1024;
inline constexpr int kMaxLabels = 64;
inline constexpr size_t kMaxLabelBytes = 63;
inline constexpr uint32_t kDefaultMemoryMib = 128;
inline constexpr uint32_t kMinMemoryMib = 128;
inline constexpr uint32_t kMaxMemoryMib = 10240;
inline constexpr absl::Duration kDefaultTimeout = absl::Seconds(30);
inline constexpr absl::Duration kMinTimeout = absl::Milliseconds(100);
inline constexpr absl::Duration kMaxTimeout = absl::Seconds(900);
inline constexpr absl::Duration kDefaultInitTimeout = absl::Seconds(10);
inline constexpr size_t kMaxEnvironmentBytes = 4096;
inline constexpr int kMaxCommandArguments = 64;
inline constexpr size_t kMaxCommandBytes = 4096;
inline constexpr size_t kMaxHandlerBytes = 256;
inline constexpr absl::Duration kReplayTime = absl::Hours(24);  // How long a request_id is known.
inline constexpr absl::Duration kIdempotencyTime = absl::Hours(1);    // And an idempotency_key.
inline constexpr int64_t kMaxIdempotencyBytes = 256ll * 1024 * 1024;  // Kept responses of a tenant.

// Code.
inline constexpr int64_t kMaxArtifactBytes = 100ll * 1024 * 1024;
inline constexpr int64_t kMaxUnpackedBytes = 250ll * 1024 * 1024;
inline constexpr int64_t kMaxArtifactEntries = 50'000;
inline constexpr size_t kMaxEntryPathBytes = 1024;
inline constexpr size_t kMaxManifestBytes = 1024 * 1024;

// Logs, in memory.
inline constexpr size_t kMaxLogLineBytes = 16 * 1024;
inline constexpr size_t kMaxFunctionLogBytes = 1024 * 1024;
inline constexpr size_t kMaxLogBytes = 64 * 1024 * 1024;
inline constexpr size_t kMaxFollowerBytes = 1024 * 1024;
// What an entry counts for beside its text and names.
inline constexpr size_t kLogEntryOverheadBytes = 256;
inline constexpr int kMaxLogEntriesPerMessage = 64;

// The ledger.
inline constexpr size_t kMaxLedgerBatch = 256;  // Records behind one sync.

}  // namespace hearth::control::limits

namespace hearth::control {

// Those that a whole server runs into only under load; for its tests they can be less.
struct ServerLimits {
  size_t invocations = limits::kMaxInvocations;
  size_t open_streams = limits::kMaxOpenStreams;
  size_t followers = limits::kMaxFollowers;
  size_t waits = limits::kMaxWaits;
  size_t uploads = limits::kMaxUploads;
  size_t deploys_queued = limits::kMaxDeploysQueued;
  size_t rebuilds_queued = limits::kMaxRebuildsQueued;
  size_t buffered_bytes = limits::kMaxBufferedBytes;
  int64_t kept_response_bytes = limits::kMaxIdempotencyBytes;
};

}  // namespace hearth::control
