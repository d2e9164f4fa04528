// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <openssl/evp.h>

#include <array>
#include <memory>
#include <string>

#include "absl/strings/string_view.h"
#include "control-plane/snapshots/limits.h"

namespace hearth::control {

using SnapshotKey = std::array<uint8_t, limits::kSnapshotKeyBytes>;
using SnapshotDigest = std::array<uint8_t, limits::kSnapshotDigestBytes>;

// The keys of one tenant, each for one purpose: HKDF-SHA256 (RFC 5869) of the store's key.
struct TenantKeys {
  SnapshotKey content;      // Chunks, manifests and states.
  SnapshotKey header;       // The MAC of headers.
  SnapshotKey working_set;  // The MAC of working sets.
};
TenantKeys DeriveTenantKeys(const SnapshotKey& store_key, absl::string_view tenant);

// BLAKE2b-256 with a key (RFC 7693). Not thread-safe; one can be used any number of times.
class KeyedDigest {
 public:
  explicit KeyedDigest(const SnapshotKey& key);
  // Of the two one after the other.
  SnapshotDigest Of(absl::string_view bytes, absl::string_view more = {});

 private:
  struct Free {
    void operator()(EVP_MAC_CTX* context) const { EVP_MAC_CTX_free(context); }
  };
  std::unique_ptr<EVP_MAC_CTX, Free> context_;
};

// As a view of the raw bytes; it lives as long as the digest.
absl::string_view Raw(const SnapshotDigest& digest);
// In time that does not depend on where they differ.
bool SameDigest(absl::string_view a, absl::string_view b);

}  // namespace hearth::control
