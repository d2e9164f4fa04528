// SPDX-License-Identifier: Apache-2.0
#include "examples/hash/digest.h"

#include <openssl/evp.h>

#include <stdexcept>

std::string DescribePayload(std::string_view payload) {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  if (EVP_Digest(payload.data(), payload.size(), digest, &size, EVP_sha256(), nullptr) != 1) {
    throw std::runtime_error("OpenSSL cannot compute SHA-256");
  }
  std::string hex;
  for (unsigned int i = 0; i < size; ++i) {
    hex += "0123456789abcdef"[digest[i] >> 4];
    hex += "0123456789abcdef"[digest[i] & 15];
  }
  return "{\"sha256\":\"" + hex + "\",\"bytes\":" + std::to_string(payload.size()) + "}";
}
