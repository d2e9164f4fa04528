// SPDX-License-Identifier: Apache-2.0
// The three stores on SQLite, each in a file of its own, so that a bill never waits for a deploy.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "control-plane/store/invocation_queue.h"
#include "control-plane/store/ledger.h"
#include "control-plane/store/metadata_store.h"

namespace hearth::control {

// `max_pages`: a quota in pages of 4096 bytes, for tests of a full disk; 0 means none.
absl::StatusOr<std::unique_ptr<MetadataStore>> OpenSqliteMetadata(const std::string& path,
                                                                  int64_t max_pages = 0);
absl::StatusOr<std::unique_ptr<InvocationQueue>> OpenSqliteQueue(const std::string& path,
                                                                 int64_t max_pages = 0);
absl::StatusOr<std::unique_ptr<Ledger>> OpenSqliteLedger(const std::string& path,
                                                         int64_t max_pages = 0);

}  // namespace hearth::control
