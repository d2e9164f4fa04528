// SPDX-License-Identifier: Apache-2.0
#include "control-plane/snapshots/keys.h"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/kdf.h>
#include <openssl/params.h>

#include <cstdlib>

#include "absl/strings/str_cat.h"

namespace hearth::control {
namespace {

// OpenSSL fails here only when memory is out or its default provider is gone: nothing could go on.
void Must(bool ok) {
  if (!ok) std::abort();
}

SnapshotKey Derive(const SnapshotKey& store_key, absl::string_view purpose,
                   absl::string_view tenant) {
  struct FreeKdf {
    void operator()(EVP_KDF* kdf) const { EVP_KDF_free(kdf); }
    void operator()(EVP_KDF_CTX* context) const { EVP_KDF_CTX_free(context); }
  };
  const std::unique_ptr<EVP_KDF, FreeKdf> kdf(EVP_KDF_fetch(nullptr, "HKDF", nullptr));
  Must(kdf != nullptr);
  const std::unique_ptr<EVP_KDF_CTX, FreeKdf> context(EVP_KDF_CTX_new(kdf.get()));
  Must(context != nullptr);
  // A zero byte parts the purpose from the tenant, and neither holds one.
  std::string info =
      absl::StrCat("hearth snapshot 1 ", purpose, absl::string_view("\0", 1), tenant);
  char digest[] = "SHA256";
  SnapshotKey ikm = store_key;
  OSSL_PARAM parameters[] = {
      OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, digest, 0),
      OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, ikm.data(), ikm.size()),
      OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, info.data(), info.size()),
      OSSL_PARAM_construct_end()};
  SnapshotKey key;
  Must(EVP_KDF_derive(context.get(), key.data(), key.size(), parameters) == 1);
  OPENSSL_cleanse(ikm.data(), ikm.size());
  return key;
}

}  // namespace

TenantKeys DeriveTenantKeys(const SnapshotKey& store_key, absl::string_view tenant) {
  return {.content = Derive(store_key, "content", tenant),
          .header = Derive(store_key, "header", tenant),
          .working_set = Derive(store_key, "working set", tenant)};
}

KeyedDigest::KeyedDigest(const SnapshotKey& key) {
  struct FreeMac {
    void operator()(EVP_MAC* mac) const { EVP_MAC_free(mac); }
  };
  const std::unique_ptr<EVP_MAC, FreeMac> mac(EVP_MAC_fetch(nullptr, "BLAKE2BMAC", nullptr));
  Must(mac != nullptr);
  context_.reset(EVP_MAC_CTX_new(mac.get()));
  size_t size = limits::kSnapshotDigestBytes;
  const OSSL_PARAM parameters[] = {OSSL_PARAM_construct_size_t(OSSL_MAC_PARAM_SIZE, &size),
                                   OSSL_PARAM_construct_end()};
  Must(context_ && EVP_MAC_init(context_.get(), key.data(), key.size(), parameters) == 1);
}

SnapshotDigest KeyedDigest::Of(absl::string_view bytes, absl::string_view more) {
  SnapshotDigest digest;
  size_t size = 0;
  // Without a key it starts again with the one it has.
  Must(EVP_MAC_init(context_.get(), nullptr, 0, nullptr) == 1);
  Must(EVP_MAC_update(context_.get(), reinterpret_cast<const uint8_t*>(bytes.data()),
                      bytes.size()) == 1);
  if (!more.empty()) {
    Must(EVP_MAC_update(context_.get(), reinterpret_cast<const uint8_t*>(more.data()),
                        more.size()) == 1);
  }
  Must(EVP_MAC_final(context_.get(), digest.data(), &size, digest.size()) == 1 &&
       size == digest.size());
  return digest;
}

absl::string_view Raw(const SnapshotDigest& digest) {
  return {reinterpret_cast<const char*>(digest.data()), digest.size()};
}

bool SameDigest(absl::string_view a, absl::string_view b) {
  return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

}  // namespace hearth::control
