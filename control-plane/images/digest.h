// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <openssl/evp.h>

#include <memory>
#include <string>

#include "absl/strings/string_view.h"
#include "vmm/base/status.h"

namespace hearth::control {

// SHA-256 of bytes that come in pieces, as "sha256:" and 64 lower-case hex digits.
class Digester {
 public:
  Digester();
  void Add(absl::string_view bytes);
  std::string Finish();  // Once.

 private:
  struct Free {
    void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
  };
  std::unique_ptr<EVP_MD_CTX, Free> context_;
};

std::string DigestOf(absl::string_view bytes);
absl::StatusOr<std::string> DigestOfFile(const std::string& path);

// Whether `text` is "sha256:" and 64 lower-case hex digits.
bool IsDigest(absl::string_view text);
// The 64 digits of a digest.
std::string DigestHex(absl::string_view digest);

}  // namespace hearth::control
