// SPDX-License-Identifier: Apache-2.0
// Names as people type them, and as the API wants them.
#pragma once

#include <string>
#include <string_view>

namespace hearth::cli {

// What a NAME argument means: "thumbnail", "thumbnail:live" (an alias), "thumbnail:3" (a version),
// or a whole resource name, "tenants/default/functions/thumbnail/versions/3".
struct FunctionRef {
  std::string tenant;
  std::string function;
  std::string version;  // Its number, or empty.
  std::string alias;    // Or empty.

  std::string Parent() const { return "tenants/" + tenant; }
  std::string FunctionName() const { return Parent() + "/functions/" + function; }
  // The most exact name: of the version or alias if one was given.
  std::string Name() const;
};

// Throws UsageError, with what is allowed, for what cannot be a name.
FunctionRef ParseFunctionRef(const std::string& text, const std::string& tenant);

// The same for what is kept by function: UsageError for a name of a version or an alias.
FunctionRef ParseFunctionOnly(const std::string& text, const std::string& tenant);

// The function id that a folder's name suggests. Throws UsageError, asking for --name, when it
// cannot be one.
std::string FunctionIdFromFolder(const std::string& folder);
bool IsFunctionId(std::string_view text);

// The last segment: "tenants/t/functions/f/versions/3" -> "3".
std::string LastSegment(const std::string& name);
// The segment behind `collection`: ("tenants/t/functions/f/versions/3", "functions") -> "f".
std::string SegmentOf(const std::string& name, const std::string& collection);

// A random UUID (version 4), for request ids.
std::string NewUuid();

}  // namespace hearth::cli
