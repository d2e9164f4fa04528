// SPDX-License-Identifier: Apache-2.0
#include "control-plane/images/digest.h"

#include <fcntl.h>

#include <cstdlib>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/strip.h"
#include "vmm/base/unique_fd.h"

namespace hearth::control {

Digester::Digester() : context_(EVP_MD_CTX_new()) {
  // Fails only when memory is out or OpenSSL is broken: nothing here could go on.
  if (!context_ || EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) != 1) std::abort();
}

void Digester::Add(absl::string_view bytes) {
  if (EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size()) != 1) std::abort();
}

std::string Digester::Finish() {
  unsigned char raw[EVP_MAX_MD_SIZE];
  unsigned size = 0;
  if (EVP_DigestFinal_ex(context_.get(), raw, &size) != 1) std::abort();
  return absl::StrCat(
      "sha256:", absl::BytesToHexString(absl::string_view(reinterpret_cast<char*>(raw), size)));
}

std::string DigestOf(absl::string_view bytes) {
  Digester digester;
  digester.Add(bytes);
  return digester.Finish();
}

absl::StatusOr<std::string> DigestOfFile(const std::string& path) {
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return ErrnoStatus(absl::StrCat("open ", path));
  Digester digester;
  std::vector<char> buffer(1 << 20);
  while (true) {
    const ssize_t got = read(fd.get(), buffer.data(), buffer.size());
    if (got < 0) {
      if (errno == EINTR) continue;
      return ErrnoStatus(absl::StrCat("read ", path));
    }
    if (got == 0) return digester.Finish();
    digester.Add(absl::string_view(buffer.data(), got));
  }
}

bool IsDigest(absl::string_view text) {
  if (!absl::ConsumePrefix(&text, "sha256:") || text.size() != 64) return false;
  for (const char c : text) {
    if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'))) return false;
  }
  return true;
}

std::string DigestHex(absl::string_view digest) {
  return std::string(absl::StripPrefix(digest, "sha256:"));
}

}  // namespace hearth::control
