// SPDX-License-Identifier: Apache-2.0
#include <nlohmann/json.hpp>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "agent/files.h"
#include "agent/runtime_api.h"

namespace hearth::agent {
namespace {

// All of it fits one frame of the protocol, with room for the rest.
constexpr size_t kMaxTypeBytes = 256;
constexpr size_t kMaxMessageBytes = 16 * 1024;
constexpr size_t kMaxTraceLines = 64;
constexpr size_t kMaxTraceLineBytes = 1024;

// RAPID's rule: Runtime.X or Function.X with X a word that begins with a capital.
std::string QualifiedType(absl::string_view type) {
  const bool function = absl::StartsWith(type, "Function.");
  absl::string_view name = type;
  if (function || absl::StartsWith(type, "Runtime.")) {
    name.remove_prefix(type.find('.') + 1);
    bool good = name.size() > 1 && name.size() < kMaxTypeBytes && absl::ascii_isupper(name[0]);
    for (char c : name) good = good && absl::ascii_isalpha(c);
    if (good) return std::string(type);
  }
  return function ? "Function.Unknown" : "Runtime.Unknown";
}

std::string StringOf(const nlohmann::json& object, const char* key, size_t max_bytes) {
  auto it = object.find(key);
  if (it == object.end() || !it->is_string()) return "";
  return Utf8(it->get_ref<const std::string&>(), max_bytes);
}

}  // namespace

agent::v1::FunctionError ParseFunctionError(absl::string_view header_type, absl::string_view body) {
  agent::v1::FunctionError error;
  const nlohmann::json object =
      nlohmann::json::parse(body.begin(), body.end(), nullptr, /*allow_exceptions=*/false);
  std::string body_type;
  if (object.is_object()) {
    body_type = StringOf(object, "errorType", kMaxTypeBytes);
    error.set_message(StringOf(object, "errorMessage", kMaxMessageBytes));
    auto trace = object.find("stackTrace");
    if (trace != object.end() && trace->is_array()) {
      for (const nlohmann::json& line : *trace) {
        if (static_cast<size_t>(error.stack_trace_size()) == kMaxTraceLines) break;
        if (!line.is_string()) continue;
        error.add_stack_trace(Utf8(line.get_ref<const std::string&>(), kMaxTraceLineBytes));
      }
    }
  } else {
    error.set_message(Utf8(body, kMaxMessageBytes));
  }
  // The header is Lambda's own category and held to its form; the body's is the function's own name
  // for what went wrong (ValueError), which tells its owner more.
  error.set_type(body_type.empty() ? QualifiedType(header_type) : body_type);
  return error;
}

}  // namespace hearth::agent
