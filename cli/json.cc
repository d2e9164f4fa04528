// SPDX-License-Identifier: Apache-2.0
#include "cli/json.h"

#include <google/protobuf/util/json_util.h>
#include <openssl/evp.h>

namespace hearth::cli {

nlohmann::json ToJson(const google::protobuf::Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.always_print_primitive_fields = true;
  std::string text;
  // It can fail only for an Any of an unknown type; none of ours holds one here.
  if (!google::protobuf::util::MessageToJsonString(message, &text, options).ok()) {
    return message.ShortDebugString();
  }
  return nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
}

std::string JsonText(const nlohmann::json& value, int indent) {
  return value.dump(indent, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

nlohmann::json ParseForeign(const std::string& text) {
  bool too_deep = false;
  // Answered false, it keeps nothing of that part; the parser itself does not recurse.
  const auto shallow = [&](int depth, nlohmann::json::parse_event_t, const nlohmann::json&) {
    too_deep = too_deep || depth > kMaxJsonDepth;
    return !too_deep;
  };
  nlohmann::json value = nlohmann::json::parse(text, shallow, /*allow_exceptions=*/false);
  return too_deep ? nlohmann::json(nlohmann::json::value_t::discarded) : value;
}

std::string Base64(const std::string& bytes) {
  std::string text((bytes.size() + 2) / 3 * 4 + 1, '\0');
  const int length = EVP_EncodeBlock(reinterpret_cast<unsigned char*>(text.data()),
                                     reinterpret_cast<const unsigned char*>(bytes.data()),
                                     static_cast<int>(bytes.size()));
  text.resize(static_cast<size_t>(length));
  return text;
}

bool IsUtf8(const std::string& bytes) {
  // nlohmann's serializer is the judge that JsonText uses, so the two agree.
  try {
    nlohmann::json(bytes).dump();
    return true;
  } catch (const nlohmann::json::type_error&) {
    return false;
  }
}

}  // namespace hearth::cli
