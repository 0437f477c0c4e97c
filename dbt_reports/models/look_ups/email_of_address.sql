{{ emails_by_key('address', 'lower({address:String})', 'lower(email) = lower({address:String})') }}
