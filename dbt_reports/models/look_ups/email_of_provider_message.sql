{{ emails_by_key('provider_message_id', '{provider_message_id:String}', 'provider_message_id = {provider_message_id:String}') }}
