// SPDX-License-Identifier: Apache-2.0
#include "cli/names.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <vector>

#include "absl/strings/str_split.h"
#include "cli/failure.h"

namespace hearth::cli {
namespace {

constexpr char kIdRule[] = "A function's id is 1 to 64 of the characters A-Z a-z 0-9 _ -";

bool AllDigits(const std::string& text) {
  return !text.empty() &&
         std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

}  // namespace

std::string FunctionRef::Name() const {
  if (!version.empty()) return FunctionName() + "/versions/" + version;
  if (!alias.empty()) return FunctionName() + "/aliases/" + alias;
  return FunctionName();
}

bool IsFunctionId(std::string_view text) {
  return !text.empty() && text.size() <= 64 && std::all_of(text.begin(), text.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '-';
  });
}

FunctionRef ParseFunctionRef(const std::string& text, const std::string& tenant) {
  FunctionRef ref;
  ref.tenant = tenant;
  const std::vector<std::string> parts = absl::StrSplit(text, '/');
  if (parts.size() == 1) {
    const size_t colon = text.find(':');
    ref.function = text.substr(0, colon);
    if (colon != std::string::npos) {
      const std::string rest = text.substr(colon + 1);
      (AllDigits(rest) ? ref.version : ref.alias) = rest;
      if (rest.empty()) {
        throw UsageError("'" + text + "' names no version or alias behind the colon",
                         {"Write " + ref.function + ":3 for version 3, " + ref.function +
                          ":live for the alias, or leave the colon out."});
      }
    }
  } else {
    const bool has_rest = parts.size() == 6 && (parts[4] == "versions" || parts[4] == "aliases");
    if (parts[0] != "tenants" || parts.size() < 4 || parts[2] != "functions" ||
        (parts.size() != 4 && !has_rest)) {
      throw UsageError("'" + text + "' is not the name of a function",
                       {"Write its id (thumbnail), or tenants/TENANT/functions/ID."});
    }
    ref.tenant = parts[1];
    ref.function = parts[3];
    if (has_rest) (parts[4] == "versions" ? ref.version : ref.alias) = parts[5];
  }
  if (!IsFunctionId(ref.function)) {
    throw UsageError("'" + ref.function + "' cannot be a function's name", {}, {kIdRule});
  }
  return ref;
}

FunctionRef ParseFunctionOnly(const std::string& text, const std::string& tenant) {
  FunctionRef ref = ParseFunctionRef(text, tenant);
  if (ref.version.empty() && ref.alias.empty()) return ref;
  throw UsageError("'" + text + "' names a version, where only a function can be named",
                   {"Write " + ref.function + "."});
}

std::string FunctionIdFromFolder(const std::string& folder) {
  std::error_code error;
  const auto path = std::filesystem::weakly_canonical(folder, error);
  // "folder/" has an empty last part.
  const std::string name = (path.has_filename() ? path : path.parent_path()).filename().string();
  if (!IsFunctionId(name)) {
    throw UsageError("the folder's name, '" + name + "', cannot be the function's name",
                     {"Choose one with --name."}, {kIdRule});
  }
  return name;
}

std::string LastSegment(const std::string& name) { return name.substr(name.rfind('/') + 1); }

std::string SegmentOf(const std::string& name, const std::string& collection) {
  const std::vector<std::string> parts = absl::StrSplit(name, '/');
  for (size_t i = 0; i + 1 < parts.size(); i += 2) {
    if (parts[i] == collection) return parts[i + 1];
  }
  return "";
}

std::string NewUuid() {
  std::ifstream file("/proc/sys/kernel/random/uuid");
  std::string uuid;
  if (!std::getline(file, uuid)) throw LocalError("cannot read /proc/sys/kernel/random/uuid");
  return uuid;
}

}  // namespace hearth::cli
