// SPDX-License-Identifier: Apache-2.0
// hearth.json: how a folder is to be run.
//
//   {"runtime": "python3.11", "handler": "app.handler", "memoryMib": 256, "timeoutSeconds": 30,
//    "interface": "runtime-api", "command": ["./program"], "environment": {"KEY": "value"},
//    "secrets": ["TOKEN"]}
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "hearth/v1/resources.pb.h"

namespace hearth::cli {

inline constexpr char kConfigFile[] = "hearth.json";
inline constexpr size_t kMaxConfigBytes = 64 * 1024;

// What hearth.json and the command line said; what neither said is absent, and the API's default.
struct FunctionConfig {
  std::optional<std::string> runtime;
  std::optional<std::string> handler;
  std::optional<std::string> interface;  // "runtime-api" or "stdio".
  std::optional<std::vector<std::string>> command;
  std::optional<std::string> description;
  std::optional<int> memory_mib;
  std::optional<double> timeout_seconds;
  std::optional<double> init_timeout_seconds;
  std::map<std::string, std::string> environment;
  // Without a value it is taken from the environment of this command; the file has no values.
  std::map<std::string, std::optional<std::string>> secrets;
};

// Reads DIR/hearth.json; an absent file is an empty config. Throws UsageError that names the file
// and the line or the field, and what to write instead.
FunctionConfig ReadConfig(const std::string& directory);
// `source` is what messages call the text.
FunctionConfig ParseConfig(const std::string& text, const std::string& source);

// What `overrides` sets replaces; its environment and secrets are added to.
void Override(const FunctionConfig& overrides, FunctionConfig* config);

// The version to create, without its artifact. Checks what the API could not tell apart (0 and
// absent) or would name in the API's words; limits are the server's business.
hearth::v1::VersionSpec ToSpec(const FunctionConfig& config, const std::string& source);

}  // namespace hearth::cli
