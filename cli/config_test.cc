// SPDX-License-Identifier: Apache-2.0
#include "cli/config.h"

#include <stdlib.h>

#include <catch2/catch.hpp>

#include "cli/failure.h"

namespace hearth::cli {
namespace {

Failure FailureOf(const std::string& text) {
  try {
    ToSpec(ParseConfig(text, "hearth.json"), "hearth.json");
  } catch (const CliError& error) {
    return error.failure();
  }
  return {};
}

TEST_CASE("config: every field reaches the version") {
  const auto spec = ToSpec(ParseConfig(R"({"runtime": "python3.11", "handler": "app.handler",
      "memoryMib": 256, "timeoutSeconds": 1.5, "initTimeoutSeconds": 20,
      "interface": "runtime-api", "environment": {"A": "b"}})",
                                       "f"),
                           "f");
  CHECK(spec.runtime() == "python3.11");
  CHECK(spec.interface().runtime_api().handler() == "app.handler");
  CHECK(spec.memory_mib() == 256);
  CHECK(spec.timeout().seconds() == 1);
  CHECK(spec.timeout().nanos() == 500'000'000);
  CHECK(spec.init_timeout().seconds() == 20);
  CHECK(spec.environment().at("A") == "b");
}

TEST_CASE("config: a command means stdio, and what is absent stays absent") {
  const auto spec =
      ToSpec(ParseConfig(R"({"runtime": "base", "command": ["./p", "-x"]})", "f"), "f");
  CHECK(spec.interface().stdio().command_size() == 2);
  CHECK(spec.memory_mib() == 0);
  CHECK_FALSE(spec.has_timeout());
}

TEST_CASE("config: the command line replaces what the file says, and adds to the environment") {
  FunctionConfig config =
      ParseConfig(R"({"runtime": "a", "environment": {"A": "1", "B": "1"}})", "f");
  FunctionConfig overrides;
  overrides.runtime = std::string("b");  // g++ 12 sees an overlap in a bare assignment.
  overrides.environment.emplace("B", "2");
  Override(overrides, &config);
  CHECK(config.runtime == "b");
  CHECK(config.environment == std::map<std::string, std::string>{{"A", "1"}, {"B", "2"}});
}

TEST_CASE("config: secrets are names, whose values the command line or the environment has") {
  setenv("HEARTH_TEST_SECRET", "from outside", 1);
  unsetenv("HEARTH_TEST_NO_SECRET");
  FunctionConfig config =
      ParseConfig(R"({"runtime": "a", "secrets": ["HEARTH_TEST_SECRET", "GIVEN"]})", "f");
  FunctionConfig overrides;
  overrides.secrets.emplace("GIVEN", "by hand");
  Override(overrides, &config);
  const auto spec = ToSpec(config, "f");
  CHECK(spec.secrets().at("HEARTH_TEST_SECRET") == "from outside");
  CHECK(spec.secrets().at("GIVEN") == "by hand");
  CHECK(spec.environment().empty());
  CHECK(FailureOf(R"({"runtime": "a", "secrets": ["HEARTH_TEST_NO_SECRET"]})").message ==
        "hearth.json: the secret HEARTH_TEST_NO_SECRET is not in the environment");
}

TEST_CASE("config: broken JSON is shown with its line and column") {
  const Failure failure = FailureOf("{\n  \"runtime\": \"base\",\n  \"handler\" \"x\"\n}");
  CHECK(failure.exit_code == kExitUsage);
  CHECK(failure.message.find("hearth.json:3:") == 0);
  REQUIRE(failure.facts.size() == 1);
  CHECK(failure.facts[0] == "  \"handler\" \"x\"");
  CHECK(FailureOf("").message.find("hearth.json:1:1: not valid JSON") == 0);
}

TEST_CASE("config: a misspelt field is named with the one that was meant") {
  const Failure failure = FailureOf(R"({"runtime": "base", "memoryMB": 256})");
  CHECK(failure.message == "hearth.json: there is no field \"memoryMB\"");
  REQUIRE(failure.advice.size() == 1);
  CHECK(failure.advice[0] == "Did you mean \"memoryMib\"?");
}

TEST_CASE("config: each mistake names its field and what it should be") {
  const std::pair<const char*, const char*> cases[] = {
      {"[]", "must hold one object"},
      {R"({"runtime": 3})", "\"runtime\" must be a string that is not empty, not 3"},
      {R"({"runtime": ""})", "\"runtime\" must be a string"},
      {R"({})", "no \"runtime\" is given"},
      {R"({"runtime": "b", "memoryMib": 0})", "\"memoryMib\" must be more than 0"},
      {R"({"runtime": "b", "memoryMib": -2})", "\"memoryMib\" must be more than -2"},
      {R"({"runtime": "b", "memoryMib": "256"})", "\"memoryMib\" must be a whole number"},
      {R"({"runtime": "b", "memoryMib": 1e30})", "\"memoryMib\" must be a whole number"},
      {R"({"runtime": "b", "memoryMib": 99999999999})", "\"memoryMib\" must be a whole number"},
      {R"({"runtime": "b", "timeoutSeconds": 0})",
       "\"timeoutSeconds\" must be a number of seconds"},
      {R"({"runtime": "b", "timeoutSeconds": true})", "\"timeoutSeconds\" must be a number"},
      {R"({"runtime": "b", "command": []})", "\"command\" must be a list of strings"},
      {R"({"runtime": "b", "command": "ls"})", "\"command\" must be a list of strings"},
      {R"({"runtime": "b", "command": ["x"], "handler": "a.b"})", "\"handler\" belongs to"},
      {R"({"runtime": "b", "interface": "stdio"})", "needs a \"command\""},
      {R"({"runtime": "b", "interface": "http"})", "must be \"runtime-api\" or \"stdio\""},
      {R"({"runtime": "b", "interface": "runtime-api", "command": ["x"]})",
       "\"command\" belongs to"},
      {R"({"runtime": "b", "environment": {"A": 1}})", "\"environment.A\" must be a string"},
      {R"({"runtime": "b", "environment": []})", "\"environment\" must be an object"},
      {R"({"runtime": "b", "secrets": {"A": "b"}})", "\"secrets\" must be a list of names"}};
  for (const auto& [text, wanted] : cases) {
    INFO(text);
    const Failure failure = FailureOf(text);
    CHECK(failure.exit_code == kExitUsage);
    CHECK(failure.message.find(wanted) != std::string::npos);
    CHECK(failure.message.find("hearth.json") == 0);
  }
}

}  // namespace
}  // namespace hearth::cli
