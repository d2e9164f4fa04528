// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <google/protobuf/message.h>

#include <nlohmann/json.hpp>

namespace hearth::cli {

// A message in proto3's JSON mapping (lowerCamelCase, 64-bit figures as strings, times as RFC
// 3339), fields at their defaults included, so that a script finds what it asks for.
nlohmann::json ToJson(const google::protobuf::Message& message);

// What `--json` prints: one document, ended by a line break. Invalid UTF-8 is replaced.
std::string JsonText(const nlohmann::json& value, int indent = 2);

// A text from somebody else; discarded unless it is JSON, nested at most kMaxJsonDepth deep: what
// is deeper would exhaust the stack when it is printed.
inline constexpr int kMaxJsonDepth = 200;
nlohmann::json ParseForeign(const std::string& text);

std::string Base64(const std::string& bytes);
bool IsUtf8(const std::string& bytes);

}  // namespace hearth::cli
