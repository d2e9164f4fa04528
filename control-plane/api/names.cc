// SPDX-License-Identifier: Apache-2.0
#include "control-plane/api/names.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "control-plane/api/errors.h"
#include "control-plane/store/uuid.h"
#include "vmm/base/status.h"

namespace hearth::control {
namespace {

bool IsId(absl::string_view id) {
  return !id.empty() && id.size() <= 64 && id != "-" &&
         std::all_of(id.begin(), id.end(),
                     [](char c) { return absl::ascii_isalnum(c) || c == '_' || c == '-'; });
}

bool IsNumber(absl::string_view text) {
  return !text.empty() && text.size() <= 9 && text[0] != '0' &&
         std::all_of(text.begin(), text.end(), absl::ascii_isdigit);
}

bool IsArtifactId(absl::string_view text) {
  return absl::ConsumePrefix(&text, "sha256-") && text.size() == 64 &&
         std::all_of(text.begin(), text.end(),
                     [](char c) { return absl::ascii_isdigit(c) || (c >= 'a' && c <= 'f'); });
}

bool Fits(absl::string_view variable, absl::string_view part) {
  if (variable == "{version}") return IsNumber(part);
  if (variable == "{invocation}" || variable == "{operation}") return IsUuid(part);
  if (variable == "{artifact}") return IsArtifactId(part);
  return IsId(part);
}

}  // namespace

absl::StatusOr<std::vector<std::string>> ParseName(absl::string_view pattern,
                                                   absl::string_view name, absl::string_view field,
                                                   bool wildcards) {
  if (name.empty()) return InvalidField(field, absl::StrCat("is required, as ", pattern));
  const std::vector<absl::string_view> wanted = absl::StrSplit(pattern, '/');
  const std::vector<absl::string_view> parts = absl::StrSplit(name, '/');
  std::vector<std::string> values;
  bool fits = wanted.size() == parts.size();
  for (size_t i = 0; fits && i < wanted.size(); ++i) {
    if (!absl::StartsWith(wanted[i], "{")) {
      fits = wanted[i] == parts[i];
      continue;
    }
    fits = Fits(wanted[i], parts[i]) || (wildcards && parts[i] == "-");
    values.emplace_back(parts[i]);
  }
  if (!fits) return InvalidField(field, absl::StrCat("must have the form ", pattern));
  return values;
}

absl::Status CheckId(absl::string_view id, absl::string_view field) {
  if (IsId(id)) return absl::OkStatus();
  return InvalidField(field, "must be 1 to 64 of the characters A-Z a-z 0-9 _ -, and not just '-'");
}

std::string ParentOf(absl::string_view name) {
  const size_t id = name.rfind('/');
  if (id == absl::string_view::npos) return "";
  const size_t collection = name.rfind('/', id - 1);
  return collection == absl::string_view::npos ? "" : std::string(name.substr(0, collection));
}

std::string IdOf(absl::string_view name) { return std::string(name.substr(name.rfind('/') + 1)); }

}  // namespace hearth::control
