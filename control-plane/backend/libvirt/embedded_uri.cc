// SPDX-License-Identifier: Apache-2.0
#include "control-plane/backend/libvirt/embedded_uri.h"

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace hearth::libvirt {
namespace {

constexpr char kEmbed[] = "qemu:///embed";

// What is no escape stays, as in libvirt.
std::string PercentDecode(absl::string_view text) {
  std::string decoded;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool escape = text[i] == '%' && i + 2 < text.size() &&
                        absl::ascii_isxdigit(static_cast<unsigned char>(text[i + 1])) &&
                        absl::ascii_isxdigit(static_cast<unsigned char>(text[i + 2]));
    if (!escape) {
      decoded += text[i];
      continue;
    }
    decoded += absl::HexStringToBytes(text.substr(i + 1, 2));
    i += 2;
  }
  return decoded;
}

}  // namespace

bool IsEmbedded(absl::string_view uri) { return absl::StartsWith(uri, kEmbed); }

std::string EmbeddedRoot(absl::string_view uri) {
  if (!absl::ConsumePrefix(&uri, absl::StrCat(kEmbed, "?"))) return "";
  for (absl::string_view parameter :
       absl::StrSplit(uri.substr(0, uri.find('#')), absl::ByAnyChar("&;"))) {
    if (absl::ConsumePrefix(&parameter, "root=")) return PercentDecode(parameter);
  }
  return "";
}

std::string EmbeddedUri(absl::string_view root) {
  return absl::StrCat(kEmbed, "?root=", PercentEncode(root));
}

std::string PercentEncode(absl::string_view path) {
  std::string encoded;
  for (const char c : path) {
    const auto byte = static_cast<unsigned char>(c);
    if (absl::ascii_isalnum(byte) || absl::StrContains("-._~/", c)) {
      encoded += c;
    } else {
      absl::StrAppendFormat(&encoded, "%%%02X", byte);
    }
  }
  return encoded;
}

}  // namespace hearth::libvirt
